"""What the reward model of the small preset learns from: the data engine's tuples, made of cached features.

`labelling.view_reward` writes the tuples; here a row of the feature cache becomes the record that it takes. Two styles:
the engine's full texts, and those of nano, which is what the judge will read. A complete text in nano's style states
five cues, so the number of cues alone tells its completeness. Attacks (`attacks.py`) are added.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from edge_emotion.claims import check_claims, parse_claims
from edge_emotion.cues import CUE_BY_NAME, Thresholds, level_of
from edge_emotion.errors import LabellingError
from edge_emotion.prosody import Measure
from edge_emotion_train.augment import clip_seed
from edge_emotion_train.explanations import value_at
from edge_emotion_train.features import FeatureRow, FeatureSet
from edge_emotion_train.labelling import built_in_writer
from edge_emotion_train.labelling.calibrate import POPULATION
from edge_emotion_train.labelling.findings import Background, findings_of, reliable_cues
from edge_emotion_train.labelling.quality import DIMENSIONS, Yardstick, find_mentions, stated_cues
from edge_emotion_train.labelling.records import Level, Reasoning, Record
from edge_emotion_train.labelling.view_reward import CannotRateError, Draft, lower, reward_rows
from edge_emotion_train.reasoning import CueEmotionTable, write_reasoning
from edge_emotion_train.reward_model.attacks import ATTACKS, deserved

STYLES = ("nano", "full")
COMPLETE_CUES = 5
ALWAYS = ("pitch", "rate")


@dataclass(frozen=True)
class RewardTuple:
    """A reasoning of a recording with its scores.

    Attributes:
        key: Clip and variant, `clip+variant`.
        speaker: Who is heard.
        style: One of `STYLES`.
        kind: `original`, a dimension and its target, `mixed.N`, `borrowed`, or an attack.
        reasoning: The text.
        scores: Of the four dimensions, 1..5, in the order of `DIMENSIONS`.
        claims: Of each checkable claim, the character after its last and whether the recording supports it; of each
            emotion that is named, the same and whether the reference text names it too.
    """

    key: str
    speaker: str
    style: str
    kind: str
    reasoning: str
    scores: tuple[int, ...]
    claims: tuple[tuple[int, bool], ...]


def row_key(row: FeatureRow) -> str:
    """Name of a row: its clip, and the number of its variant."""
    return f"{row.clip}+{row.variant}"


def record_of(row: FeatureRow, thresholds: Thresholds) -> Record:
    """A row of the cache as a measured and levelled record; cues without thresholds are left out."""
    values = {name: value_at(name, position) for name, position in row.positions.items() if name in thresholds.cuts}
    return Record(
        id=row_key(row),
        audio="",
        corpus=row.corpus,
        speaker=row.speaker,
        emotion=row.emotion,
        measures={
            CUE_BY_NAME[name].measure: Measure(
                CUE_BY_NAME[name].measure, value, CUE_BY_NAME[name].unit, 0.0, row.duration_s, 1.0
            )
            for name, value in values.items()
        },
        levels={
            name: Level(level_of(CUE_BY_NAME[name], value, thresholds), 1.0, POPULATION)
            for name, value in values.items()
        },
    )


def make_tuples(
    features: FeatureSet,
    indices: Iterable[int],
    thresholds: Thresholds,
    table: CueEmotionTable,
    style: str,
    seed: int,
) -> Iterator[RewardTuple]:
    """Tuples of rows, each with those of its reasoning, of another's, and attacks; a row too poor in cues gives none.

    Args:
        features: Rows of which a reasoning is lent come from the same indices.
        indices: Rows wanted; those without an emotion give none.
        thresholds: Cut points, of training speakers.
        table: Which emotions cue levels suggest, of training speakers.
        style: One of `STYLES`.
        seed: Decides every draw.
    """
    written: dict[int, Record] = {}
    for index in indices:
        record = record_of(features.rows[index], thresholds)
        text = _write(record, table, style, seed) if record.emotion in table.labels else None
        if text is not None:
            written[index] = replace(record, reasoning=Reasoning(text, "built-in", style))
    for record in written.values():
        rng = np.random.default_rng(clip_seed(f"{seed}\0{record.id}\0{style}\0attacks", 0))
        lender = _lender(record, list(written.values()), rng)
        groups = {POPULATION: thresholds}
        try:
            rows = list(reward_rows(record, "train", "", groups, table, lender, seed))
        except CannotRateError:
            continue
        yardstick = Yardstick(record.prosody(), thresholds, stated_cues(_text(record)))
        made = [
            (row["id"].split("#reward.")[1], row["reasoning"], tuple(row["scores"][d] for d in DIMENSIONS))
            for row in rows
        ]
        made += _attacks(record, yardstick, table, rng)
        named = {mention.emotion for mention in find_mentions(_text(record))}
        for kind, text, scores in made:
            checked = check_claims(parse_claims(text), yardstick.prosody, thresholds)
            verdicts = [
                (item.claim.end, item.verdict == "supported") for item in checked if item.verdict != "not measurable"
            ]
            verdicts += [(mention.end, mention.emotion in named) for mention in find_mentions(text)]
            yield RewardTuple(record.id, str(record.speaker), style, kind, text, scores, tuple(sorted(verdicts)))


def _write(record: Record, table: CueEmotionTable, style: str, seed: int) -> str | None:
    rng = np.random.default_rng(clip_seed(f"{seed}\0{record.id}\0{style}", 0))
    emotion = str(record.emotion)
    if style == "full":
        try:
            return built_in_writer.write(findings_of(record, Background({"": table})), emotion, table, "full", rng)
        except LabellingError:
            return None
    cues = reliable_cues(record)
    others = [name for name in cues if name not in ALWAYS]
    drawn = {others[i] for i in rng.permutation(len(others))[: COMPLETE_CUES - sum(name in cues for name in ALWAYS)]}
    levels = {name: level for name, level in cues.items() if name in ALWAYS or name in drawn}
    if len(levels) < COMPLETE_CUES:
        return None
    return write_reasoning(levels, tuple(name for name, _ in table.rank(levels)[:2]), emotion, rng)


def _lender(record: Record, others: Sequence[Record], rng: np.random.Generator) -> Record | None:
    """Another clip, of another emotion, whose text names no emotion that this one's names or has."""
    own = {mention.emotion for mention in find_mentions(_text(record))} | {record.emotion}
    for index in rng.permutation(len(others))[:60]:
        other = others[index]
        if not own & ({mention.emotion for mention in find_mentions(_text(other))} | {other.emotion}):
            return other
    return None


def _attacks(
    record: Record, yardstick: Yardstick, table: CueEmotionTable, rng: np.random.Generator
) -> list[tuple[str, str, tuple[int, ...]]]:
    """Every attack on the reasoning as it is and on one made worse: praise must not come to mean a good text."""
    text, truth = _text(record), str(record.emotion)
    ranked = [name for name, _ in reversed(table.rank(reliable_cues(record))) if name != truth]
    original = Draft(text, 1.0 if find_mentions(text) else None, text)
    made = []
    for name, attack in ATTACKS.items():
        targets = {dimension: int(rng.integers(1, 6)) for dimension in DIMENSIONS}
        worse = lower(original, targets, truth, ranked[: len(ranked) // 2], yardstick, rng)
        for kind, draft in (name, original), (f"{name}_worse", worse):
            attacked = attack(draft.text, rng)
            scores = deserved(draft, attacked, yardstick)
            made.append((kind, attacked, tuple(scores[dimension] for dimension in DIMENSIONS)))
    return made


def _text(record: Record) -> str:
    return record.reasoning.text if record.reasoning else ""


def save_tuples(path: Path, tuples: Iterable[RewardTuple]) -> None:
    """As JSON lines, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(item)) + "\n" for item in tuples)
    partial.rename(path)


def load_tuples(path: Path) -> list[RewardTuple]:
    """What `save_tuples` wrote."""
    found: list[Mapping] = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        RewardTuple(
            **{**item, "scores": tuple(item["scores"]), "claims": tuple((end, held) for end, held in item["claims"])}
        )
        for item in found
    ]
