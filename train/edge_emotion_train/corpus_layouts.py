"""How each corpus lies on disk: one generator per corpus from its folder to entries and problems.

Names, codes and tables are those of the corpora's own documentation. A label that the corpus defines but that has no
counterpart among our emotions is passed on as None, with the corpus's word in `extra["label"]`; a label that the corpus
does not define is a problem.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg")


@dataclass(frozen=True)
class Entry:
    """A recording as its corpus describes it; `label` in the corpus's own words, for `normalise_label`."""

    name: str
    path: Path
    speaker: str
    label: str | None
    language: str | None
    text: str | None = None
    gender: str | None = None
    split: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    label_corpus: str | None = None


@dataclass(frozen=True)
class Problem:
    """Something in the folder that cannot be a clip, by kind."""

    kind: str
    detail: str


Reader: TypeAlias = Callable[[Path], Iterator[Entry | Problem]]


@dataclass(frozen=True)
class Layout:
    """A corpus's reader, and in words what its folder must hold."""

    read: Reader
    expects: str


# --- a manifest: one JSON object a line ------------------------------------------------------------------------------

_MANIFEST_FIELDS = ("audio", "speaker", "emotion", "language", "text", "gender", "split")


def read_manifest(root: Path) -> Iterator[Entry | Problem]:
    """`manifest.jsonl` with at least `audio` (relative to the folder) and `speaker`; other fields go into `extra`."""
    if not (root / "manifest.jsonl").is_file():
        return
    named = set()
    for number, line in enumerate((root / "manifest.jsonl").read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            audio, speaker = Path(row["audio"]), str(row["speaker"])
        except (ValueError, KeyError, TypeError) as error:
            yield Problem("unreadable line", f"manifest.jsonl line {number}: {type(error).__name__} {error}")
            continue
        named.add(root / audio)
        yield Entry(
            name=audio.stem,
            path=root / audio,
            speaker=speaker,
            label=row.get("emotion"),
            language=row.get("language"),
            text=row.get("text"),
            gender=row.get("gender"),
            split=row.get("split"),
            extra={key: value for key, value in row.items() if key not in _MANIFEST_FIELDS},
        )
    yield from _unlabelled(root, _audio_files(root), named)


def _manifest_or(other: Reader) -> Reader:
    return lambda root: read_manifest(root) if (root / "manifest.jsonl").is_file() else other(root)


def _audio_files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.suffix.lower() in AUDIO_SUFFIXES and not p.name.startswith("."))


def _unlabelled(root: Path, audio: Iterable[Path], labelled: Collection[Path]) -> Iterator[Problem]:
    """Recordings that no table of the corpus speaks of, or a second copy of one."""
    for path in audio:
        if path not in labelled:
            yield Problem("audio without a label", path.relative_to(root).as_posix())


def _by_name(root: Path, pattern: re.Pattern[str], entry: Callable[[Path, re.Match[str]], Entry]) -> Iterator[Any]:
    """Entries of a corpus whose file names say everything; any other audio file is a problem."""
    for path in _audio_files(root):
        match = pattern.fullmatch(path.stem)
        yield entry(path, match) if match else Problem("unknown file name", path.relative_to(root).as_posix())


# --- EmoDB (Burkhardt et al. 2005): wav/03a01Fa.wav ------------------------------------------------------------------

_EMODB_SPEAKERS = {  # gender, age
    "03": ("male", 31), "08": ("female", 34), "09": ("female", 21), "10": ("male", 32), "11": ("male", 26),
    "12": ("male", 30), "13": ("female", 32), "14": ("female", 35), "15": ("male", 25), "16": ("female", 31),
}  # fmt: skip
_EMODB_TEXTS = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Blatt Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}


def _read_emodb(root: Path) -> Iterator[Entry | Problem]:
    def entry(path: Path, match: re.Match[str]) -> Entry:
        speaker, text_code, letter, take = match.groups()
        gender, age = _EMODB_SPEAKERS.get(speaker, (None, None))
        extra = {"text_code": text_code, "take": take, "age": age, "label": letter}
        text = _EMODB_TEXTS.get(text_code)
        return Entry(path.stem, path, speaker, letter, "de", text, gender, None, extra, label_corpus="emodb")

    return _by_name(root, re.compile(r"(\d\d)([ab]\d\d)([A-Z])([a-z]?)"), entry)


# --- EmoGator (Buhl et al. 2023): data/mp3/000001-03-1.mp3 -----------------------------------------------------------

_EMOGATOR_CATEGORIES = (
    "Adoration", "Amusement", "Anger", "Awe", "Confusion", "Contempt", "Contentment", "Desire", "Disappointment",
    "Disgust", "Distress", "Ecstasy", "Elation", "Embarrassment", "Fear", "Guilt", "Interest", "Neutral", "Pain",
    "Pride", "Realization", "Relief", "Romantic Love", "Sadness", "Serenity", "Shame", "Surprise (Negative)",
    "Surprise (Positive)", "Sympathy", "Triumph",
)  # fmt: skip
_EMOGATOR_EMOTIONS = ("Anger", "Disgust", "Elation", "Fear", "Neutral", "Sadness", "Surprise")


def _read_emogator(root: Path) -> Iterator[Entry | Problem]:
    def entry(path: Path, match: re.Match[str]) -> Entry:
        speaker, category = match[1], int(match[2])
        known = 1 <= category <= len(_EMOGATOR_CATEGORIES)
        word = _EMOGATOR_CATEGORIES[category - 1] if known else f"category {category}"
        emotion = word.split(" (")[0]
        label = emotion if emotion in _EMOGATOR_EMOTIONS or not known else None
        extra = {"label": word, "instance": int(match[3])}
        return Entry(path.stem, path, speaker, label, "zxx", extra=extra, label_corpus="emogator")

    return _by_name(root, re.compile(r"(\d{6})-(\d\d)-(\d+)"), entry)


# --- RAVDESS (Livingstone and Russo 2018): Actor_01/03-01-06-01-02-01-01.wav -----------------------------------------

_RAVDESS_TEXTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}


def _read_ravdess(root: Path) -> Iterator[Entry | Problem]:
    def entry(path: Path, match: re.Match[str]) -> Entry:
        _, channel, emotion, intensity, statement, repetition, actor = match.groups()
        extra = {
            "label": emotion,
            "vocal_channel": {"01": "speech", "02": "song"}.get(channel, channel),
            "intensity": {"01": "normal", "02": "strong"}.get(intensity, intensity),
            "repetition": int(repetition),
        }
        gender, text = ("female", "male")[int(actor) % 2], _RAVDESS_TEXTS.get(statement)
        return Entry(path.stem, path, actor, emotion, "en", text, gender, None, extra, label_corpus="ravdess")

    return _by_name(root, re.compile("-".join([r"(\d\d)"] * 7)), entry)


# --- CREMA-D (Cao et al. 2014): AudioWAV/1001_DFA_ANG_XX.wav, VideoDemographics.csv ----------------------------------

_CREMAD_TEXTS = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}


def _read_cremad(root: Path) -> Iterator[Entry | Problem]:
    people: dict[str, dict[str, str]] = {}
    for table in sorted(root.rglob("VideoDemographics.csv")):
        people.update({row["ActorID"]: row for row in _csv_rows(table) if "ActorID" in row})

    def entry(path: Path, match: re.Match[str]) -> Entry:
        actor, sentence, label, intensity = match.groups()
        person = people.get(actor, {})
        extra = {"label": label, "intensity": intensity, "age": int(person["Age"]) if person.get("Age") else None}
        text, gender = _CREMAD_TEXTS.get(sentence), person.get("Sex", "").lower() or None
        return Entry(path.stem, path, actor, label, "en", text, gender, None, extra, label_corpus="crema-d")

    return _by_name(root, re.compile(r"(\d{4})_([A-Z]{3})_([A-Z]{3})_([A-Z]+)"), entry)


# --- TESS (Pichora-Fuller and Dupuis 2020): OAF_angry/OAF_back_angry.wav ---------------------------------------------


def _read_tess(root: Path) -> Iterator[Entry | Problem]:
    def entry(path: Path, match: re.Match[str]) -> Entry:
        speaker, word, label = match.groups()
        speaker = "OAF" if speaker == "OA" else speaker  # one file of the release is called OA_bite_neutral
        extra = {"label": label, "word": word, "age": {"OAF": 64, "YAF": 26}[speaker]}
        text = f"Say the word {word}."
        return Entry(path.stem, path, speaker, label, "en", text, "female", None, extra, label_corpus="tess")

    return _by_name(root, re.compile(r"(OAF|YAF|OA)_(\w+?)_(\w+)"), entry)


# --- IEMOCAP (Busso et al. 2008): Session1/dialog/EmoEvaluation/*.txt, Session1/sentences/wav/*/*.wav ----------------

_IEMOCAP_WITHOUT_COUNTERPART = ("fru", "oth", "xxx")  # frustration, other, no agreement between raters
_IEMOCAP_TURN = re.compile(r"\[([\d.]+) - ([\d.]+)\]\t(\S+)\t(\w+)\t\[([\d.]+), ([\d.]+), ([\d.]+)\]")
_IEMOCAP_LINE = re.compile(r"(Ses\d\d[FM]_\w+_[FM]\w*\d+) \[[^\]]*\]: (.*)")


def _read_iemocap(root: Path) -> Iterator[Entry | Problem]:
    for session in sorted(root.glob("Session[0-9]*")):
        texts, rated = _iemocap_texts(session), set()
        for table in sorted((session / "dialog" / "EmoEvaluation").glob("[!.]*.txt")):
            for match in _IEMOCAP_TURN.finditer(table.read_text(encoding="utf-8", errors="replace")):
                entry = _iemocap_entry(session, match, texts)
                rated.add(entry.path)
                yield entry
        yield from _unlabelled(root, _audio_files(session / "sentences"), rated)


def _iemocap_entry(session: Path, match: re.Match[str], texts: Mapping[str, str]) -> Entry:
    start, end, turn, label, valence, activation, dominance = match.groups()
    dialogue, number = turn.rsplit("_", 1)
    sex = number[0]  # a dialogue's name says who wears the motion markers, its turn's number who speaks
    extra = {
        "label": label,
        "session": int(turn[3:5]),
        "dialogue": dialogue,
        "start_s": float(start),
        "end_s": float(end),
        "valence": float(valence),
        "activation": float(activation),
        "dominance": float(dominance),
    }
    return Entry(
        name=turn,
        path=session / "sentences" / "wav" / dialogue / f"{turn}.wav",
        speaker=f"{turn[:5]}{sex}",
        label=None if label in _IEMOCAP_WITHOUT_COUNTERPART else label,
        language="en",
        text=texts.get(turn),
        gender={"F": "female", "M": "male"}.get(sex),
        extra=extra,
        label_corpus="iemocap",
    )


def _iemocap_texts(session: Path) -> dict[str, str]:
    texts = {}
    for transcript in sorted((session / "dialog" / "transcriptions").glob("[!.]*.txt")):
        for line in transcript.read_text(encoding="utf-8", errors="replace").splitlines():
            if match := _IEMOCAP_LINE.match(line):
                texts[match[1]] = match[2].strip()
    return texts


# --- MELD (Poria et al. 2019): train_sent_emo.csv, and its clips as wav in folders named after the splits ------------

_MELD_FOLDERS = {"train": ("train",), "dev": ("dev",), "test": ("test", "output_repeated_splits_test")}


def _read_meld(root: Path) -> Iterator[Entry | Problem]:
    audio, labelled = _audio_files(root), set()
    for table in sorted(root.rglob("*_sent_emo.csv")):
        split = table.name.removesuffix("_sent_emo.csv")
        prefixes = _MELD_FOLDERS.get(split)
        if prefixes is None:
            yield Problem("unknown table", table.relative_to(root).as_posix())
            continue
        clips = {p.stem: p for p in audio if any(f.startswith(prefixes) for f in p.relative_to(root).parts[:-1])}
        for row in _csv_rows(table):
            name = f"dia{row.get('Dialogue_ID')}_utt{row.get('Utterance_ID')}"
            path = clips.get(name, root / f"{split}/{name}.wav")
            labelled.add(path)
            yield _meld_entry(row, split, name, path)
    yield from _unlabelled(root, audio, labelled)


def _meld_entry(row: Mapping[str, str], split: str, name: str, path: Path) -> Entry:
    extra = {key: row.get(column) for key, column in _MELD_COLUMNS.items()}
    text = (row.get("Utterance") or "").replace("\x92", "'") or None
    speaker = re.sub(r"\W+", "_", row.get("Speaker") or "unknown")
    return Entry(
        f"{split}/{name}", path, speaker, row.get("Emotion") or "", "en", text, None, split, extra, label_corpus="meld"
    )


_MELD_COLUMNS = {
    "label": "Emotion",
    "sentiment": "Sentiment",
    "dialogue": "Dialogue_ID",
    "utterance": "Utterance_ID",
    "season": "Season",
    "episode": "Episode",
}


def _csv_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return list(csv.DictReader(file))


LAYOUTS: Mapping[str, Layout] = {
    "emodb": Layout(_manifest_or(_read_emodb), "manifest.jsonl, or wav/03a01Fa.wav and so on"),
    "emogator": Layout(_manifest_or(_read_emogator), "manifest.jsonl, or data/mp3/000001-03-1.mp3 and so on"),
    "synthetic": Layout(read_manifest, "manifest.jsonl as written by synthetic_clips"),
    "ravdess": Layout(_read_ravdess, "Actor_01/03-01-06-01-02-01-01.wav and so on"),
    "cremad": Layout(_read_cremad, "AudioWAV/1001_DFA_ANG_XX.wav and so on"),
    "tess": Layout(_read_tess, "OAF_back_angry.wav and so on, in whatever folders"),
    "iemocap": Layout(_read_iemocap, "Session1/dialog/EmoEvaluation/*.txt and Session1/sentences/wav/*/*.wav"),
    "meld": Layout(
        _read_meld,
        "train_sent_emo.csv (dev, test) and dia0_utt0.wav and so on in folders named train*, dev*, test* or "
        "output_repeated_splits_test (convert the release's mp4 to wav first)",
    ),
}
