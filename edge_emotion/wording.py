"""How people say the levels of each cue: the writer's own phrases, and the wider lexicon the claim parser understands.

Pure data. `PHRASES` is what a model of this project is taught to say, kept to few distinct words because a language
model of a few million parameters must learn them; `SUBJECTS` and `EXPRESSIONS` are what anybody may say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PHRASES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "pitch": {
        "very low": ("a very low pitch", "a very deep voice", "a voice pitched very low"),
        "low": ("a low pitch", "a deep voice", "a voice pitched low"),
        "medium": ("a medium pitch", "an ordinary pitch", "a voice pitched in the middle"),
        "high": ("a high pitch", "a high voice", "a voice pitched high"),
        "very high": ("a very high pitch", "a very high voice", "a voice pitched very high"),
    },
    "pitch_variation": {
        "narrow": ("a narrow pitch range", "little variation in pitch", "small swings in pitch"),
        "moderate": ("a moderate pitch range", "some variation in pitch", "moderate swings in pitch"),
        "wide": ("a wide pitch range", "much variation in pitch", "large swings in pitch"),
    },
    "pitch_slope": {
        "falling": ("a falling melody", "a melody that falls", "a melody that drifts down"),
        "level": ("a level melody", "a melody that stays level", "a melody that holds level"),
        "rising": ("a rising melody", "a melody that rises", "a melody that drifts up"),
    },
    "rate": {
        "slow": ("a slow pace", "slow speech", "words that come slowly"),
        "moderate": ("a moderate pace", "an ordinary pace", "a pace neither fast nor slow"),
        "fast": ("a fast pace", "fast speech", "words that come quickly"),
    },
    "tone": {
        "soft": ("a soft tone", "a dark tone", "a tone with little edge"),
        "balanced": ("a balanced tone", "a tone with some edge", "a tone neither soft nor sharp"),
        "sharp": ("a sharp tone", "a bright tone", "a tone with much edge"),
    },
    "clarity": {
        "rough": ("a rough voice", "a breathy voice", "a hoarse voice"),
        "mixed": ("a partly rough voice", "a partly breathy voice", "a voice neither rough nor clear"),
        "clear": ("a clear voice", "a smooth voice", "a clear full voice"),
    },
    "dynamics": {
        "even": ("even loudness", "steady loudness", "little change in loudness"),
        "moderate": ("some change in loudness", "moderate change in loudness", "ordinary change in loudness"),
        "strong": ("much change in loudness", "strong change in loudness", "large swings in loudness"),
    },
    "pauses": {
        "none": ("no pauses", "hardly any pauses", "an unbroken flow"),
        "some": ("some pauses", "a few pauses", "occasional pauses"),
        "many": ("many pauses", "frequent pauses", "numerous pauses"),
    },
    "pitch_turn": {
        "falling-rising": (
            "a melody that falls and then rises",
            "a falling and then rising melody",
            "a melody that drifts down and then up",
        ),
        "straight": ("a straight melody", "a melody that stays straight", "a melody that goes one way"),
        "rising-falling": (
            "a melody that rises and then falls",
            "a rising and then falling melody",
            "a melody that drifts up and then down",
        ),
    },
    "loudness": {
        "quiet": ("a quiet voice", "low loudness", "a low volume"),
        "medium": ("medium loudness", "ordinary loudness", "a medium volume"),
        "loud": ("a loud voice", "high loudness", "a high volume"),
    },
}

Words = Mapping[tuple[str, str], str]
"""(cue, level) to its words, separated by `|`; a space in a word also stands for a hyphen."""


@dataclass(frozen=True)
class Subject:
    """Something of a voice that has qualities.

    Attributes:
        nouns: Its names, separated by `|`.
        adjectives: Qualities that stand before the noun or after a verb such as "is".
        predicates: What follows the noun directly: "falls", "far up".
    """

    nouns: str
    adjectives: Words
    predicates: Words = field(default_factory=dict)


def _products(heads: str, links: str, tails: str) -> str:
    return "|".join(
        f"{head} {link} {tail}" for head in heads.split("|") for link in links.split("|") for tail in tails.split("|")
    )


def _sequences(first: str, second: str, links: str) -> str:
    return "|".join(
        [_products(first, links, second), _products("first " + first.replace("|", "|first "), links, second)]
    )


_FALLING, _LEVEL, _RISING = ("pitch_slope", "falling"), ("pitch_slope", "level"), ("pitch_slope", "rising")
_NARROW, _VARIED, _WIDE = ("pitch_variation", "narrow"), ("pitch_variation", "moderate"), ("pitch_variation", "wide")
_DIP, _STRAIGHT, _ARCH = ("pitch_turn", "falling-rising"), ("pitch_turn", "straight"), ("pitch_turn", "rising-falling")
_UP, _DOWN = (
    "rises|climbs|ascends|goes up|moves up|drifts up",
    "falls|drops|declines|descends|sinks|goes down|drifts down",
)
_UPWARD, _DOWNWARD = "rising|ascending|climbing", "falling|descending|declining|dropping"
_THEN = "and then|but then|then|before it|and afterwards"
_AND_THEN = "and then|but then|then|and afterwards"
_SLOPES: Words = {
    _FALLING: "falling|descending|declining|dropping|downward|sinking|downward sloping",
    _LEVEL: "level",
    _RISING: "rising|ascending|climbing|upward|upward sloping",
    _DIP: "falling rising|fall rise|dipping|valley shaped|" + _sequences(_DOWNWARD, _UPWARD, _AND_THEN),
    _STRAIGHT: "straight",
    _ARCH: "rising falling|rise fall|arched|arch shaped|" + _sequences(_UPWARD, _DOWNWARD, _AND_THEN),
}
_MOVEMENTS: Words = {
    _FALLING: "falls|drops|declines|descends|sinks|goes down|drifts down|moves down|comes down|slopes down",
    _LEVEL: "stays level|remains level|holds level|keeps level",
    _RISING: "rises|climbs|ascends|goes up|drifts up|moves up|slopes up",
    _DIP: "dips and recovers|drifts down and then up|goes down and then up|"
    + _sequences(_DOWN, _UP, _THEN)
    + "|"
    + _sequences(_DOWN, _UPWARD, "before"),
    _STRAIGHT: "stays straight|goes one way|runs straight|goes straight|does not turn",
    _ARCH: "arches|drifts up and then down|goes up and then down|"
    + _sequences(_UP, _DOWN, _THEN)
    + "|"
    + _sequences(_UP, _DOWNWARD, "before"),
    _NARROW: "varies little|varies very little|barely varies|hardly varies|hardly moves|barely moves|barely changes",
    _VARIED: "varies moderately|varies somewhat",
    _WIDE: "varies widely|varies a lot|varies greatly|varies strongly|swings|swings widely|fluctuates",
}
_LIVELINESS: Words = {
    _NARROW: "monotone|monotonous|flat|unvarying|unvaried|uninflected",
    _VARIED: "moderately varied|moderately variable",
    _WIDE: "varied|variable|varying|lively|animated|swinging|fluctuating|sing song|singsong|wide ranging",
}
_PITCH: Words = {
    ("pitch", "low"): "low|lower|lowered|deep|deeper|low lying|on the low side|low level|lower level",
    (
        "pitch",
        "medium",
    ): "medium|moderate|average|normal|mid|middle|mid range|in the middle|ordinary|typical|medium level",
    ("pitch", "high"): "high|higher|elevated|raised|heightened|high lying|on the high side|high level|elevated level",
}
_TONE: Words = {
    ("tone", "soft"): "soft|softer|dark|darker|mellow|muffled|muted|dull",
    ("tone", "balanced"): "balanced|evenly balanced|well balanced",
    ("tone", "sharp"): "sharp|sharper|bright|brighter|hard|shrill|piercing|strident|cutting|metallic|harsh|edgy",
}
_CLARITY: Words = {
    ("clarity", "rough"): "rough|hoarse|raspy|breathy|husky|gravelly|growling|creaky|croaky|coarse|scratchy|grating",
    ("clarity", "mixed"): "partly rough|partly breathy|partly hoarse|partly clear|partly rough and partly clear|mixed",
    ("clarity", "clear"): "clear|clearer|smooth|clean|resonant|full|full toned|pure",
}
_RATE: Words = {
    ("rate", "slow"): "slow|slower|slowed|unhurried|leisurely|sluggish|dragging|drawn out",
    ("rate", "fast"): "fast|faster|quick|quicker|quickened|rapid|brisk|hurried|rushed|swift|accelerated|"
    "rapid fire|breakneck",
}
_AMOUNTS_SMALL = (
    "little|small|smaller|low|narrow|narrower|limited|minimal|hardly any|barely any|almost no|no|slight|reduced|"
    "restricted"
)
_AMOUNTS_MIDDLE = "moderate|some|medium|ordinary|normal|average"
_AMOUNTS_LARGE = (
    "much|large|larger|wide|wider|broad|great|greater|big|strong|high|considerable|pronounced|marked|a lot of|"
    "extensive|expanded|dramatic|lively"
)
_CHANGES = "change|changes|variation|variations|variability|swings|fluctuation|fluctuations|movement|contrast|contrasts"
_LOUDNESS = "loudness|volume|energy|intensity"

SUBJECTS: tuple[Subject, ...] = (
    Subject(
        "pitch|voice pitch|vocal pitch|pitch level|speaking pitch|in pitch|register|vocal register|f0|"
        "fundamental frequency",
        {**_PITCH, **_LIVELINESS, **_SLOPES},
        {**_MOVEMENTS, ("pitch", "high"): "far up|high up", ("pitch", "low"): "far down|low down"},
    ),
    Subject("pitched", _PITCH, _PITCH),
    Subject(
        "pitch range|vocal range|range of pitch|pitch span|melodic range|tonal range|intonation range|inflection|"
        "pitch variation|pitch variations|pitch variability|pitch swings|pitch changes|pitch fluctuations|"
        "pitch movement|pitch modulation|melodic variation|" + _products(_CHANGES, "in|of", "pitch"),
        {_NARROW: _AMOUNTS_SMALL + "|compressed|tight|subtle", _VARIED: _AMOUNTS_MIDDLE, _WIDE: _AMOUNTS_LARGE},
    ),
    Subject(
        "melody|speech melody|intonation|contour|pitch contour|intonation contour|pitch curve|melodic line|pitch line",
        {**_LIVELINESS, **_SLOPES},
        _MOVEMENTS,
    ),
    Subject(
        "pace|paced|tempo|rate|speed|speaking rate|speech rate|rate of speech|articulation rate|speech tempo|"
        "speaking tempo|speaking pace|speaking speed|talking speed",
        {
            ("rate", "slow"): _RATE["rate", "slow"] + "|low|reduced|measured|deliberate",
            ("rate", "moderate"): "moderate|medium|ordinary|average|normal|regular|comfortable|typical",
            ("rate", "fast"): _RATE["rate", "fast"] + "|high|higher|elevated|increased",
        },
    ),
    Subject("speech|delivery|words|utterance|phrasing|articulation|manner of speaking", {**_RATE, **_LIVELINESS}),
    Subject(
        "speaks|speak|speaking|spoke|talks|talk|talking|talked|spoken|delivered|words come|words come out|"
        "words that come",
        {
            ("rate", "slow"): "slowly|slow",
            ("rate", "fast"): "quickly|rapidly|fast|hurriedly|briskly",
            ("loudness", "quiet"): "soft|softly|quietly",
        },
        {
            ("rate", "slow"): "slowly|slow|unhurriedly",
            ("rate", "fast"): "quickly|rapidly|fast|faster|hurriedly|briskly|in a hurry",
            ("loudness", "quiet"): "quietly|softly",
            ("loudness", "loud"): "loudly|loud",
        },
    ),
    Subject(
        "voice|voiced|vocals|speaker",
        {
            **_LIVELINESS,
            **_TONE,
            **_CLARITY,
            **_RATE,
            ("pitch", "low"): "low|lower|deep|deeper|low lying",
            ("pitch", "high"): "high|higher|high lying",
            ("loudness", "quiet"): "quiet|faint|quieter",
            ("loudness", "loud"): "loud|louder|booming",
        },
    ),
    Subject(
        "tone|tone of voice|vocal tone|sound|sound of the voice|timbre|tone colour|tone color|voice quality|"
        "vocal quality|texture|voice texture|vocal texture",
        {
            **_TONE,
            **_CLARITY,
            _NARROW: "monotone|monotonous|flat",
            ("pitch", "low"): "low|lower|deep|deeper",
            ("pitch", "high"): "high|higher",
        },
    ),
    Subject(
        "edge",
        {
            ("tone", "soft"): "little|no|hardly any|almost no|without",
            ("tone", "balanced"): "some|moderate|a moderate",
            ("tone", "sharp"): "much|strong|hard|sharp|a lot of",
        },
    ),
    Subject(
        _LOUDNESS + "|vocal energy|vocal intensity|energy level|loudness level|volume level",
        {
            ("dynamics", "even"): "even|steady|constant|stable|uniform|unvarying|unchanging|consistent",
            ("dynamics", "strong"): "variable|varying|varied|uneven|changing|changeable|fluctuating",
            ("loudness", "quiet"): "low|lower|reduced|soft|weak|quiet|subdued",
            ("loudness", "medium"): "moderate|medium|normal|average|ordinary",
            ("loudness", "loud"): "high|higher|loud|raised|strong|increased|elevated",
        },
        {
            ("dynamics", "even"): "varies little|varies very little|barely varies|hardly varies|hardly changes",
            ("dynamics", "strong"): "varies a lot|varies widely|varies strongly|swings|fluctuates",
        },
    ),
    Subject(
        "dynamics|dynamic range|loudness variation|volume variation|energy variation|loudness changes|volume changes|"
        "loudness swings|" + _products(_CHANGES, "in|of", _LOUDNESS),
        {
            ("dynamics", "even"): _AMOUNTS_SMALL + "|flat|even",
            ("dynamics", "moderate"): _AMOUNTS_MIDDLE,
            ("dynamics", "strong"): _AMOUNTS_LARGE,
        },
    ),
    Subject("accents|emphasis|stresses", {("dynamics", "strong"): "strong|heavy|forceful|pronounced|marked"}),
    Subject(
        "pauses|pause|breaks|gaps|silences|hesitations|pausing",
        {
            ("pauses", "none"): (
                "no|hardly any|barely any|almost no|scarcely any|few|without|without any|rare|never|rarely|"
                "seldom|free of"
            ),
            ("pauses", "some"): "some|a few|only a few|occasional|several|a number of|moderate",
            ("pauses", "many"): "many|frequent|numerous|long|lots of|a lot of|plenty of|lengthy|extended",
        },
        {
            ("pauses", "none"): "rarely|seldom",
            ("pauses", "some"): "occasionally|sometimes",
            ("pauses", "many"): "often|frequently|a lot",
        },
    ),
    Subject(
        "flow|flow of speech|speech flow",
        {
            ("pauses", "none"): "unbroken|uninterrupted|continuous",
            ("pauses", "many"): "halting|broken|interrupted",
        },
    ),
)

# What says its cue and level without a noun.
EXPRESSIONS: Words = {
    _NARROW: "monotone|monotonous|monotonously|monotony",
    _WIDE: "sing song|singsong",
    ("rate", "fast"): "rushed|hurried",
    ("rate", "slow"): "unhurried",
    ("clarity", "rough"): "breathy|breathiness|hoarse|hoarseness|raspy",
    ("tone", "sharp"): "shrill|shrillness|strident",
    ("loudness", "loud"): "shouting|shouts|shouted|yelling|yells",
    ("loudness", "quiet"): "whispering|whispers|whispered",
}

EXTREMES = "very|extremely|exceptionally|extraordinarily|remarkably|strikingly|incredibly|highly|far"
DEGREES = (
    "quite|rather|fairly|somewhat|slightly|relatively|moderately|mildly|a bit|a little|a touch|pretty|really|so|too|"
    "particularly|especially|unusually|noticeably|notably|markedly|distinctly|clearly|consistently|generally|mostly|"
    "almost|nearly|more|much|both|comparatively|rather more|decidedly|predominantly"
)
# Words between a quality and its noun ("a deep male voice").
FILLERS = (
    "overall|average|mean|median|vocal|voice|speaking|speech|spoken|male|female|general|own|natural|shaky|trembling|"
    "noticeable|audible|emotional|human|singing|man's|woman's"
)
# Qualities that claim nothing measurable here, but may stand in a row with those that do ("a tense, high voice").
PASSING = (
    "tense|calm|shaky|trembling|tight|strained|warm|cold|cool|gentle|expressive|emotional|steady|unsteady|stable|unstable|"
    "controlled|energetic|weak|strong|deliberate|relaxed|agitated|neutral|natural|confident|firm|thin|heavy|light|forceful|"
    "smooth"
)

# Small words of the grammar, separated by spaces: what links a noun to its quality, what denies, and what may stand
# between a denial and the denied ("not a particularly high voice", "no signs of").
LINKING_VERBS = (
    "is are was were be been being stay stays stayed staying remain remains remained remaining sound sounds sounded "
    "sounding seem seems seemed appear appears appeared become becomes became feels lies sits stands keeps kept holds "
    "tends runs comes gets turns"
)
NEGATORS = (
    "not never no nor neither without lack lacks lacking absence hardly barely scarcely less unlike nothing cannot "
    "would if whether than instead opposed free far typically usually normally"
)
BEFORE_NEGATED = (
    "a an the any especially particularly really very too so that at all overly quite sign signs hint hints trace "
    "traces of have has having show shows speak speaking talk sound sounds sounding use uses with in exactly as be "
    "seem necessarily unusually much their his her its hear find notice is are to from there"
)
