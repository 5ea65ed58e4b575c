"""The step `write`: a calibrated record to one with a reasoning that its own measures bear out.

An author writes, the checker (`text_checking`) takes out what is not so or refuses the text. A record without a text is
kept, with the reason among the failures.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edge_emotion.claims import check_claims, parse_claims
from edge_emotion.errors import EdgeEmotionError, LabellingError
from edge_emotion_train.labelling import built_in_writer
from edge_emotion_train.labelling.calibrate import ThresholdGroups
from edge_emotion_train.labelling.engine import Counts, run_step
from edge_emotion_train.labelling.findings import Background, Findings, findings_of
from edge_emotion_train.labelling.records import Failure, Outcome, Record, RecordFile
from edge_emotion_train.labelling.steps import LABELLED, LEVELLED, THRESHOLDS, record_files
from edge_emotion_train.labelling.store import publish, published_failures, read_published, write_atomically
from edge_emotion_train.labelling.text_checking import CheckedText, check_text
from edge_emotion_train.labelling.view_reasoning import record_thresholds
from edge_emotion_train.labelling.workers import StopRun
from edge_emotion_train.reasoning import CueEmotionTable
from edge_emotion_train.variety import variety_report

# Raise it when the same record and settings give another text.
VERSION = 1
BUILT_IN = "built-in"
BACKGROUND = "background.json"
_NO_TEXT = '"lost": "reasoning"'


@dataclass(frozen=True)
class Assignment:
    """What an author is to write.

    Attributes:
        findings: What may be said of the clip.
        emotion: Its emotion.
        table: Which cue levels go with which emotion.
        size: One of `text_checking.SIZES`.
        rng: Source of all variety: of the record, the seed and the attempt.
        refused: The author's text before, and why it was refused; None for the first.
    """

    findings: Findings
    emotion: str
    table: CueEmotionTable
    size: str
    rng: np.random.Generator
    refused: CheckedText | None = None


Author = Callable[[Assignment], str]
"""Writes a text, or raises an `EdgeEmotionError`."""


def built_in_author(assignment: Assignment) -> str:
    """The writer that needs no language model."""
    return built_in_writer.write(
        assignment.findings, assignment.emotion, assignment.table, assignment.size, assignment.rng
    )


@dataclass(frozen=True)
class Writing:
    """The step, as `run_step` takes it.

    Attributes:
        background: What the whole collection says.
        thresholds: Those that the levels were made with.
        author: Who writes.
        writer: The author's name in the records.
        size: One of `text_checking.SIZES`.
        seed: Of all variety.
        corrections: How often an author whose text was refused is told why and may write another.
        details: What else the texts depend on, such as the temperature of sampling; JSON types.
    """

    background: Background
    thresholds: ThresholdGroups
    author: Author = built_in_author
    writer: str = BUILT_IN
    size: str = "full"
    seed: int = 0
    corrections: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What results depend on beside the record."""
        background = json.dumps(self.background.to_dict(), sort_keys=True) + self.thresholds.to_json()
        return {
            "version": VERSION,
            "writer": self.writer,
            "size": self.size,
            "seed": self.seed,
            "corrections": self.corrections,
            "background_sha256": hashlib.sha256(background.encode()).hexdigest(),
            **self.details,
        }

    def __call__(self, record: Record) -> Outcome:
        """Writes the reasoning of one clip."""
        try:
            checked = self._write(record)
        except StopRun:
            raise
        except EdgeEmotionError as error:
            return _without_text(record, str(error))
        if checked.problem:
            return _without_text(record, f"the text was refused: {checked.problem}")
        return Outcome(replace(record, reasoning=checked.reasoning(self.writer, self.size)))

    def _write(self, record: Record) -> CheckedText:
        if record.emotion is None:
            raise LabellingError("the clip has no emotion that a reasoning could lead to")
        if record.levels is None:
            raise LabellingError("the clip has no levels; `edge-emotion label calibrate` makes them")
        findings = findings_of(record, self.background)
        table = self.background.table(record.corpus, record.emotion)
        thresholds = record_thresholds(record, self.thresholds.groups)
        checked: CheckedText | None = None
        for attempt in range(self.corrections + 1):
            rng = built_in_writer.record_rng(self.seed, f"{record.id}\0{attempt}" if attempt else record.id)
            text = self.author(Assignment(findings, record.emotion, table, self.size, rng, checked))
            checked = check_text(text, record.prosody(), thresholds, record.emotion, self.size, len(findings.cues))
            if checked.problem is None:
                break
        assert checked is not None
        return checked


def _without_text(record: Record, cause: str) -> Outcome:
    return Outcome(replace(record, reasoning=None), (Failure(record.id, "write", cause, lost="reasoning"),))


def write(
    folder: Path,
    output: Path | None = None,
    *,
    author: Author = built_in_author,
    writer: str = BUILT_IN,
    size: str = "full",
    seed: int = 0,
    corrections: int = 0,
    details: Mapping[str, Any] | None = None,
    background: Path | None = None,
    held_out: Collection[str] = (),
    processes: int = 1,
    threads: int = 1,
    ray: bool = False,
    retry_failed: bool = False,
    force: bool = False,
    progress: bool = True,
) -> tuple[Counts, dict[str, Any]]:
    """Writes the reasoning of every calibrated clip into `labelled.jsonl`; see `run_step` for what may be raised.

    Args:
        folder: Holds the `levelled.jsonl` and `thresholds.json` of `calibrate`.
        output: Folder of the outputs; None for the same.
        author: Who writes.
        writer: The author's name in the records.
        size: One of `text_checking.SIZES`.
        seed: Of all variety.
        corrections: How often an author whose text was refused may write another.
        details: What else the texts depend on; JSON types.
        background: A `background.json` to use, rather than gathering one from these clips.
        held_out: Test speakers, from whom the background learns nothing.
        processes: Processes of this machine.
        threads: For an author that waits for a network.
        ray: Through Ray Data.
        retry_failed: Try clips again that failed before.
        force: Throw away what was written before.
        progress: A bar on stderr.

    Returns:
        What became of the clips, and of the texts (`writing_report`).

    Raises:
        LabellingError: An input is missing, a held-out speaker has no clip, or no clip tells how an emotion sounds.
    """
    records = record_files([folder], LEVELLED)
    thresholds = ThresholdGroups.read(folder / THRESHOLDS)
    known = gather_background(records, held_out) if background is None else read_background(background)
    step = Writing(known, thresholds, author, writer, size, seed, corrections, details or {})
    target = folder if output is None else output
    if retry_failed:
        _take_out_failures(target / LABELLED)
    counts = run_step(
        "write", step, records, target, LABELLED, step.settings, processes=processes, threads=threads, ray=ray,
        retry_failed=retry_failed, force=force, progress=progress,
    )  # fmt: skip
    write_atomically(target / BACKGROUND, json.dumps(known.to_dict(), indent=1, ensure_ascii=False) + "\n")
    failures = [failure for failure in published_failures(target / LABELLED) if failure["step"] == "write"]
    return counts, writing_report(RecordFile((target / LABELLED,)), thresholds, failures)


def _take_out_failures(output: Path) -> None:
    """The output without the records that have no text: for the engine they are done, since only a field is missing."""
    published = read_published(output)
    if published is not None:
        failed = {key for key, entry in published.entries.items() if _NO_TEXT in entry.failures}
        publish(output, published.settings, [item for item in published.entries.items() if item[0] not in failed])


def gather_background(records: Iterable[Record], held_out: Collection[str] = ()) -> Background:
    """What a collection says, without its held-out speakers.

    Raises:
        LabellingError: No record has both an emotion and reliable levels, or a held-out speaker has no clip.
    """
    speakers: set[str | None] = set()

    def noted() -> Iterator[Record]:
        for record in records:
            speakers.add(record.speaker)
            yield record

    try:
        background = Background.of(noted(), held_out)
    except ValueError as error:
        raise LabellingError(f"{error}; label clips of known emotion, or give the background of others") from None
    if unknown := sorted(set(held_out) - speakers):
        some = ", ".join(sorted(filter(None, speakers))[:20])
        raise LabellingError(f"no clip of the held-out speaker {', '.join(unknown)}; speakers: {some}")
    return background


def read_background(path: Path) -> Background:
    """A background that a run wrote.

    Raises:
        LabellingError: There is no such file, or it holds something else.
    """
    try:
        return Background.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise LabellingError(f"{path} cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LabellingError(
            f"{path} holds no background ({type(error).__name__}: {error}); give a background.json that "
            "`edge-emotion label write` wrote"
        ) from None


def writing_report(
    records: Iterable[Record], thresholds: ThresholdGroups, failures: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What became of the texts; every claim is checked anew.

    Args:
        records: With reasoning or without.
        thresholds: Those that the levels were made with.
        failures: Of this step, as `errors.jsonl` has them.
    """
    texts, verdicts, claims, cues = [], Counter(), [], []
    repaired = removed = total = 0
    for record in records:
        total += 1
        if record.reasoning is None:
            continue
        checked = check_claims(
            parse_claims(record.reasoning.text), record.prosody(), record_thresholds(record, thresholds.groups)
        )
        verdicts.update(item.verdict for item in checked)
        supported = [item.claim.cue for item in checked if item.verdict == "supported"]
        texts.append(record.reasoning.text)
        claims.append(len(supported))
        cues.append(len(set(supported)))
        repaired += record.reasoning.repairs > 0
        removed += record.reasoning.repairs
    refused = sum(str(failure["cause"]).startswith("the text was refused") for failure in failures)
    words = [len(text.split()) for text in texts]
    answered = len(texts) + refused
    return {
        "records": total,
        "written": len(texts),
        "refused": refused,
        "refused_share": refused / answered if answered else None,
        "repaired": repaired,
        "repaired_share": repaired / answered if answered else None,
        "sentences_removed": removed,
        "not_written": total - answered,
        "claims": {"supported": verdicts["supported"], "contradicted": verdicts["contradicted"],
                   "not_measurable": verdicts["not measurable"]},
        "claims_per_text": float(np.mean(claims)) if claims else None,
        "four_claims_share": float(np.mean(np.array(claims) >= 4)) if claims else None,
        "cues_per_text": float(np.mean(cues)) if cues else None,
        "words": {"fewest": min(words), "mean": float(np.mean(words)), "most": max(words)} if words else None,
        "variety": variety_report(texts),
    }  # fmt: skip
