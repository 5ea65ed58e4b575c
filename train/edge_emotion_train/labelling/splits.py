"""Splits by speaker, and the proof that nothing is heard on both sides.

A sentence-take is one act of speaking. The same take hides behind many names: the same speaker saying the same text, a
recording listed twice, the same bytes under another name, or an edited variant. The proof looks for all of them in the
rows as written, and knows nothing of how the split was made.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from edge_emotion.errors import CorpusError
from edge_emotion_train.labelling.records import Record
from edge_emotion_train.labelling.rows import SPLITS, Row

SHARES: Mapping[str, float] = {"train": 0.8, "validation": 0.1, "test": 0.1}


@dataclass(frozen=True)
class Split:
    """Which split each record belongs to.

    Attributes:
        of: Record id to one of `SPLITS`.
        seed: Seed of the draw.
        notes: What a reader should know: speakers moved because they share a recording, records without a speaker.
    """

    of: Mapping[str, str]
    seed: int
    notes: tuple[str, ...] = ()


def split_records(
    records: Sequence[Record],
    seed: int = 0,
    test_speakers: Iterable[str] = (),
    validation_speakers: Iterable[str] = (),
    shares: Mapping[str, float] = SHARES,
    use_source_splits: bool = False,
) -> Split:
    """Give every record a split; all records of a speaker get the same one.

    Speakers who share a recording count as one. Records without a speaker are training records, because nobody could
    prove that a test speaker is not among them.

    Args:
        records: With unique ids.
        seed: Decides which speakers are drawn; the order of the records does not.
        test_speakers: Always test. With any, no other speaker is drawn for the test.
        validation_speakers: Always validation. With any, no other speaker is drawn for validation.
        shares: Share of clips of each split, for speakers that are drawn.
        use_source_splits: Keep the corpus's own split where it has one for all clips of a speaker.

    Raises:
        CorpusError: A named speaker has no clip or is in two lists, an id is doubled, a recording is shared by speakers
            who are named for different splits, or shares are impossible.
    """
    _check_shares(shares)
    fixed = _fixed_speakers(records, test_speakers, validation_speakers)
    doubled = [name for name, count in Counter(record.id for record in records).items() if count > 1]
    if doubled:
        raise CorpusError(f"record ids must be unique; given twice: {', '.join(sorted(doubled)[:5])}")
    spoken = [record for record in records if record.speaker is not None]
    groups = _groups_of_speakers(spoken)
    own = _source_splits(spoken, groups) if use_source_splits else {}
    clips = Counter(groups[str(record.speaker)] for record in spoken)
    chosen: dict[str, str] = {}
    notes = []
    for group, members in _members(groups).items():
        wanted = {fixed[name] for name in members if name in fixed} or {own[name] for name in members if name in own}
        if len(wanted) > 1:
            raise CorpusError(
                f"speakers {', '.join(members)} share a recording but are named for {' and '.join(sorted(wanted))}; "
                "drop the shared recording or name them for the same split"
            )
        if wanted:
            chosen[group] = wanted.pop()
        if len(members) > 1:
            notes.append(f"speakers {', '.join(members)} share a recording and stay together")
    chosen |= _draw({g: n for g, n in clips.items() if g not in chosen}, seed, shares, frozenset(fixed.values()))
    nameless = len(records) - len(spoken)
    if nameless:
        notes.append(f"{nameless} records without a speaker are training records")
    of = {r.id: "train" if r.speaker is None else chosen[groups[r.speaker]] for r in records}
    return Split(_keep_takes_together(records, of), seed, tuple(notes))


def take_keys(record: Record) -> tuple[str, ...]:
    """Every name under which this take could appear again; two records that share one hold the same take."""
    keys = [f"recording:{record.id}", f"file:{record.audio}:{record.start_s}:{record.end_s}"]
    if record.audio_sha256:
        keys.append(f"audio:{record.audio_sha256}:{record.start_s}:{record.end_s}")
    if record.speaker is not None and record.text:
        keys.append(f"spoken:{record.speaker}:{_plain(record.text)}")
    edited_from = record.extra.get("edited_from")
    if edited_from:
        keys.append(f"recording:{edited_from}")
    return tuple(keys)


def prove_split(rows: Iterable[Row], records: Iterable[Record]) -> dict[str, Any]:
    """Look for anything that is heard in two splits; the result is the proof, to be stored beside the rows.

    Args:
        rows: The rows as written, with `split`, `speaker`, `sources` and, if any, `lender`.
        records: The records they name.

    Returns:
        `speakers` (the lists), `speaker_count`, `take_count`, `row_count` and `sha256` (over the sorted names of
        speakers and takes) for each split, `shared` (all 0), and `holds` (True).

    Raises:
        CorpusError: A speaker or a take is in two splits, or a row names a record that is not there; says which.
    """
    by_id = {record.id: record for record in records}
    speakers: dict[str, set[str]] = {split: set() for split in SPLITS}
    takes: dict[str, set[str]] = {split: set() for split in SPLITS}
    counts: Counter[str] = Counter()
    for row in rows:
        split = row["split"]
        counts[split] += 1
        lender = row.get("lender")
        for source in [*row["sources"], *([lender] if lender else [])]:
            if source not in by_id:
                raise CorpusError(f"row {row['id']} is made of {source}, which is no record here")
            record = by_id[source]
            takes[split].update(take_keys(record))
            if source != lender and record.speaker != row["speaker"]:
                raise CorpusError(f"row {row['id']} says speaker {row['speaker']}, its record says {record.speaker}")
            if record.speaker is not None:
                speakers[split].add(record.speaker)
    shared = {"speakers": _shared(speakers, "speaker"), "takes": _shared(takes, "sentence-take")}
    return {
        "holds": True,
        "shared": shared,
        "speakers": {split: sorted(speakers[split]) for split in SPLITS},
        "speaker_count": {split: len(speakers[split]) for split in SPLITS},
        "take_count": {split: sum(key.startswith("recording:") for key in takes[split]) for split in SPLITS},
        "row_count": {split: counts[split] for split in SPLITS},
        "sha256": {split: _hash([*sorted(speakers[split]), *sorted(takes[split])]) for split in SPLITS},
    }


def _shared(sets: Mapping[str, set[str]], what: str) -> int:
    for one, other in combinations(SPLITS, 2):
        both = sorted(sets[one] & sets[other])
        if both:
            raise CorpusError(
                f"{len(both)} {what}{'s are' if len(both) > 1 else ' is'} both in {one} and in {other}: "
                f"{', '.join(both[:5])}; such a view would test what it trained on and is not written"
            )
    return 0


def _keep_takes_together(records: Sequence[Record], of: dict[str, str]) -> dict[str, str]:
    """A take of an unknown speaker that a known speaker's record repeats goes where the known speaker is."""
    firmly = {record.id for record in records if record.speaker is not None}
    where = {key: of[record.id] for record in records if record.id in firmly for key in take_keys(record)}
    group = _groups([(record.id, take_keys(record)) for record in records if record.id not in firmly])
    pulled: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.id not in firmly:
            pulled[group[record.id]].update(where[key] for key in take_keys(record) if key in where)
    for record in records:
        if record.id not in firmly:
            splits = pulled[group[record.id]] or {"train"}
            if len(splits) > 1:
                raise CorpusError(f"{record.id} has no speaker and repeats takes of {' and '.join(sorted(splits))}")
            of[record.id] = next(iter(splits))
    return of


def _fixed_speakers(records: Sequence[Record], test: Iterable[str], validation: Iterable[str]) -> dict[str, str]:
    test, validation = set(test), set(validation)
    known = {record.speaker for record in records if record.speaker is not None}
    if unknown := (test | validation) - known:
        shown = ", ".join(sorted(known)[:20])
        raise CorpusError(f"no clip of speaker {', '.join(sorted(unknown))}; speakers here: {shown or 'none'}")
    if both := test & validation:
        raise CorpusError(f"speaker {', '.join(sorted(both))} is named for test and for validation; choose one")
    return dict.fromkeys(test, "test") | dict.fromkeys(validation, "validation")


def _check_shares(shares: Mapping[str, float]) -> None:
    values = [shares.get(split, 0.0) for split in SPLITS]
    if set(shares) - set(SPLITS) or min(values) < 0.0 or abs(sum(values) - 1.0) > 1e-6:
        raise CorpusError(f"shares {dict(shares)} given; they are of {', '.join(SPLITS)}, >= 0, and sum to 1")


def _draw(clips: Mapping[str, int], seed: int, shares: Mapping[str, float], taken: frozenset[str]) -> dict[str, str]:
    """Speakers in an order that only seed and name decide; each split is filled up to its share of clips."""
    order = sorted(clips, key=lambda name: (hashlib.sha256(f"{seed}\0{name}".encode()).hexdigest(), name))
    total = sum(clips.values())
    chosen: dict[str, str] = {}
    for split in ("test", "validation"):
        share = 0.0 if split in taken else shares.get(split, 0.0)
        filled = 0
        # One speaker always remains to train on.
        while share > 0.0 and len(order) > 1 and filled < max(1.0, share * total):
            name = order.pop(0)
            chosen[name] = split
            filled += clips[name]
    return chosen | dict.fromkeys(order, "train")


def _source_splits(records: Sequence[Record], groups: Mapping[str, str]) -> dict[str, str]:
    """Speaker to the corpus's own split, for groups of speakers whose clips all have the same."""
    named: dict[str, set[str | None]] = defaultdict(set)
    for record in records:
        named[groups[str(record.speaker)]].add(_SOURCE_SPLITS.get((record.split or "").strip().casefold()))
    agreed = {group: next(iter(splits)) for group, splits in named.items() if len(splits) == 1}
    return {speaker: split for speaker, group in groups.items() if (split := agreed.get(group))}


_SOURCE_SPLITS: Mapping[str, str] = {
    "train": "train", "training": "train", "validation": "validation", "valid": "validation", "val": "validation",
    "dev": "validation", "development": "validation", "test": "test", "eval": "test",
}  # fmt: skip


def _groups_of_speakers(records: Sequence[Record]) -> dict[str, str]:
    return _groups([(str(record.speaker), take_keys(record)) for record in records])


def _groups(linked: Sequence[tuple[str, Sequence[str]]]) -> dict[str, str]:
    """Owners that share a key, directly or through others, are one group, called after its smallest owner."""
    parent: dict[tuple[str, str], tuple[str, str]] = {}

    def root_of(node: tuple[str, str]) -> tuple[str, str]:
        parent.setdefault(node, node)
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]
        return node

    for owner, keys in linked:
        for key in keys:
            parent[root_of(("key", key))] = root_of(("owner", owner))
    names: dict[tuple[str, str], str] = {}
    for owner in sorted({owner for owner, _ in linked}):
        names.setdefault(root_of(("owner", owner)), owner)
    return {owner: names[root_of(("owner", owner))] for owner, _ in linked}


def _members(groups: Mapping[str, str]) -> dict[str, list[str]]:
    members: dict[str, list[str]] = defaultdict(list)
    for name in sorted(groups):
        members[groups[name]].append(name)
    return members


def _plain(text: str) -> str:
    """The words alone: case, punctuation and spacing make no other sentence."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in folded).split()) or folded.strip()


def _hash(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
