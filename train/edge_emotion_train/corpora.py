"""Corpora of emotional speech as one list of clips, split by speaker, with a report of everything that was not taken.

How each corpus lies on disk is in `corpus_layouts`; what its labels mean is in `edge_emotion.labels`.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edge_emotion.errors import CorpusError
from edge_emotion.labels import normalise_label
from edge_emotion_train.corpus_layouts import LAYOUTS, Entry, Problem

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Clip:
    """One recording of one speaker.

    `emotion` is None where the corpus gives none that `EMOTIONS` has (synthetic speech, IEMOCAP's frustration); the
    corpus's own word is then in `extra["label"]`. `speaker` is unique over all corpora. `name` is unique in the corpus
    and does not depend on where it lies on disk.
    """

    path: Path
    speaker: str
    emotion: str | None
    corpus: str
    language: str | None
    text: str | None
    gender: str | None
    split: str | None
    extra: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    @property
    def clip_id(self) -> str:
        """Corpus and name: what augmentation and caches are keyed by."""
        return f"{self.corpus}/{self.name or self.path.stem}"


@dataclass(frozen=True)
class CorpusReport:
    """What a reader found: the clips it took, and by kind of problem what it did not take."""

    corpus: str
    root: Path
    clips: tuple[Clip, ...]
    problems: Mapping[str, tuple[str, ...]]

    @property
    def problem_count(self) -> int:
        return sum(len(items) for items in self.problems.values())

    def summary(self, shown: int = 5) -> str:
        """Counts of clips, speakers, emotions and problems, with the first few of each kind of problem."""
        emotions = Counter(clip.emotion or "no emotion" for clip in self.clips)
        speakers = len({clip.speaker for clip in self.clips})
        counts = ", ".join(f"{emotion} {count}" for emotion, count in sorted(emotions.items()))
        lines = [f"{self.corpus} in {self.root}: {len(self.clips)} clips of {speakers} speakers ({counts or 'none'})"]
        for kind, items in self.problems.items():
            rest = f", and {len(items) - shown} more" if len(items) > shown else ""
            lines.append(f"  {kind}: {len(items)} ({'; '.join(items[:shown])}{rest})")
        return "\n".join(lines)


@dataclass(frozen=True)
class Fold:
    """One fold of a cross-validation: nobody is heard in both parts."""

    test_speakers: tuple[str, ...]
    train: tuple[Clip, ...]
    test: tuple[Clip, ...]


def corpus_names() -> tuple[str, ...]:
    """The corpora that can be read."""
    return tuple(LAYOUTS)


def scan_corpus(name: str, root: str | Path) -> CorpusReport:
    """Read a corpus and report what is wrong with it instead of stopping at it.

    Args:
        name: One of `corpus_names()`; case, hyphens and underscores do not matter.
        root: The corpus's folder.

    Raises:
        CorpusError: The corpus is unknown, its folder is missing, or nothing in the folder looks like the corpus.
    """
    corpus, root = _corpus_name(name), Path(root)
    if not root.is_dir():
        raise CorpusError(f"{corpus}: {root} is not a folder; give the folder that holds {LAYOUTS[corpus].expects}")
    clips: dict[str, Clip] = {}
    problems: dict[str, list[str]] = {}
    for item in LAYOUTS[corpus].read(root):
        taken = _to_clip(item, corpus, root) if isinstance(item, Entry) else item
        if isinstance(taken, Clip) and taken.name in clips:
            taken = Problem("duplicate", f"{_shown(taken.path, root)} is {_shown(clips[taken.name].path, root)} again")
        if isinstance(taken, Problem):
            problems.setdefault(taken.kind, []).append(taken.detail)
        else:
            clips[taken.name] = taken
    report = CorpusReport(corpus, root, tuple(clips.values()), {kind: tuple(v) for kind, v in problems.items()})
    if not clips:
        raise CorpusError(f"{report.summary()}\n  no clip was found; expected {LAYOUTS[corpus].expects}")
    return report


def read_corpus(name: str, root: str | Path, strict: bool = True) -> list[Clip]:
    """The clips of a corpus.

    Args:
        name: One of `corpus_names()`.
        root: The corpus's folder.
        strict: Raise where anything is missing, unknown or doubled; otherwise log it and return the rest (MELD, for
            one, has never been complete).

    Raises:
        CorpusError: As `scan_corpus`; under `strict` for any problem, with the counts and first cases of each kind.
    """
    report = scan_corpus(name, root)
    if report.problems and strict:
        raise CorpusError(f"{report.summary()}\n  mend the folder, or read it with strict=False to go on without these")
    if report.problems:
        log.warning("%s", report.summary())
    return list(report.clips)


def split_by_speaker(clips: Iterable[Clip], test_speakers: Iterable[str]) -> tuple[list[Clip], list[Clip]]:
    """Training and test clips; every clip of a test speaker is a test clip.

    Raises:
        CorpusError: A test speaker has no clip, which would be a test of nobody.
    """
    clips, held_out = list(clips), set(test_speakers)
    speakers = {clip.speaker for clip in clips}
    if unknown := held_out - speakers:
        known = ", ".join(sorted(speakers)[:20])
        raise CorpusError(f"no clip of test speaker {', '.join(sorted(unknown))}; speakers here: {known}")
    return [c for c in clips if c.speaker not in held_out], [c for c in clips if c.speaker in held_out]


def speaker_folds(clips: Sequence[Clip], folds: int) -> list[Fold]:
    """Folds of whole speakers, as equal in speakers, genders and clips as the corpus allows; no chance is involved.

    Args:
        clips: Clips of at least `folds` speakers.
        folds: 2 or more; as many as there are speakers is leave one speaker out.

    Raises:
        CorpusError: More folds than speakers, or fewer than 2.
    """
    counts = Counter(clip.speaker for clip in clips)
    if not 2 <= folds <= len(counts):
        raise CorpusError(f"{folds} folds of {len(counts)} speakers asked for; give 2 to {len(counts)}")
    gender = {clip.speaker: clip.gender for clip in clips}
    groups: list[list[str]] = [[] for _ in range(folds)]
    for speaker in sorted(counts, key=lambda s: (-counts[s], s)):
        lightest = min(
            groups,
            key=lambda g: (len(g), sum(gender[s] == gender[speaker] for s in g), sum(counts[s] for s in g)),
        )
        lightest.append(speaker)
    result = []
    for group in sorted(sorted(group) for group in groups):
        train, test = split_by_speaker(clips, group)
        result.append(Fold(tuple(group), tuple(train), tuple(test)))
    return result


def corpus_hash(clips: Iterable[Clip]) -> str:
    """SHA-256 over names, labels, speakers and bytes of all clips, in whatever order they come."""
    total = hashlib.sha256()
    for clip in sorted(clips, key=lambda c: c.clip_id):
        contents = hashlib.sha256(clip.path.read_bytes()).hexdigest()
        total.update(f"{clip.clip_id}\t{clip.speaker}\t{clip.emotion}\t{contents}\n".encode())
    return total.hexdigest()


def _corpus_name(name: str) -> str:
    key = name.strip().casefold().replace("-", "").replace("_", "")
    if key not in LAYOUTS:
        raise CorpusError(f"unknown corpus {name!r}; known corpora: {', '.join(LAYOUTS)}")
    return key


def _to_clip(entry: Entry, corpus: str, root: Path) -> Clip | Problem:
    if not entry.path.is_file():
        return Problem("missing audio", _shown(entry.path, root))
    emotion = None
    if entry.label is not None:
        try:
            emotion = normalise_label(entry.label, entry.label_corpus)
        except ValueError:
            return Problem("unknown label", f"{entry.label!r} of {entry.name}")
    return Clip(
        path=entry.path,
        speaker=entry.speaker if entry.speaker.startswith(f"{corpus}_") else f"{corpus}_{entry.speaker}",
        emotion=emotion,
        corpus=corpus,
        language=entry.language,
        text=entry.text,
        gender=entry.gender,
        split=entry.split,
        extra=dict(entry.extra),
        name=entry.name,
    )


def _shown(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
