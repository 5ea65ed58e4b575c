"""Records with chosen levels: measures that lie in the middle of them, and the thresholds that say so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from edge_emotion.cues import CUE_BY_NAME, CUES, Thresholds
from edge_emotion.labels import EMOTIONS
from edge_emotion.prosody.records import Measure
from edge_emotion_train.labelling.findings import Background
from edge_emotion_train.labelling.records import Level, Record
from edge_emotion_train.reasoning import CueEmotionTable

ALL_CUTS = Thresholds(
    {
        "pitch": (100.0, 150.0, 200.0, 300.0),
        "pitch_variation": (2.0, 4.0),
        "pitch_slope": (-3.0, 3.0),
        "rate": (4.0, 6.0),
        "tone": (-20.0, -10.0),
        "clarity": (8.0, 14.0),
        "dynamics": (4.0, 8.0),
        "pauses": (0.05, 0.2),
        "pitch_turn": (-2.0, 2.0),
        "loudness": (-30.0, -20.0),
    },
    "all cues",
)
GROUPS = {"corpus:corpus": ALL_CUTS, "speaker:corpus_anna": ALL_CUTS}


def value_in(cue: str, level: str) -> float:
    """A value in the middle of a level, far from its neighbours."""
    cuts = ALL_CUTS.cuts[cue]
    place = CUE_BY_NAME[cue].levels.index(level)
    if 0 < place < len(cuts):
        return math.sqrt(cuts[place - 1] * cuts[place]) if cue == "pitch" else (cuts[place - 1] + cuts[place]) / 2
    edge, inward = (cuts[0], cuts[1]) if place == 0 else (cuts[-1], cuts[-2])
    return edge * (edge / inward) if cue == "pitch" else edge + (edge - inward)


def make_record(levels: Mapping[str, str], **fields: Any) -> Record:
    """A record with these levels; keywords give other fields, `thresholds` the group of the levels."""
    group = fields.pop("thresholds", "corpus:corpus")
    measures = {}
    for name, level in levels.items():
        cue = CUE_BY_NAME[name]
        measures[cue.measure] = Measure(cue.measure, value_in(name, level), cue.unit, 0.0, 2.0, 0.9)
    given = {"id": "corpus/clip", "audio": "/nowhere/clip.wav", "corpus": "corpus", "emotion": "anger"} | fields
    known = {name: Level(level, 0.9, group) for name, level in levels.items()}
    return Record(**given, measures=measures, levels=known)


def make_table(seed: int = 0) -> CueEmotionTable:
    """Random associations of all cues with all emotions."""
    import numpy as np

    rng = np.random.default_rng(seed)
    labels = [emotion for emotion in EMOTIONS for _ in range(6)]
    return CueEmotionTable().fit([{cue.name: str(rng.choice(cue.levels)) for cue in CUES} for _ in labels], labels)


BACKGROUND = Background({"": make_table()})


@st.composite
def cue_levels(draw: st.DrawFn, fewest: int = 2) -> dict[str, str]:
    """Levels of some cues."""
    names = draw(st.lists(st.sampled_from([cue.name for cue in CUES]), min_size=fewest, unique=True))
    return {cue.name: draw(st.sampled_from(cue.levels)) for cue in CUES if cue.name in names}
