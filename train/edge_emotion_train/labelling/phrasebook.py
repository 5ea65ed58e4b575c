"""The sentences of full-size reasoning: pure data, for `full_reasoning`.

A slot is filled with phrases of `wording.PHRASES` or with those below. No sentence names a level or a noun of the claim
grammar outside its slots, so a text claims what its slots claim. Which sentence is taken depends on the generator and
on what is known of a clip, never on the emotion: a reader must not be able to tell the emotion by the sentence.
"""

from __future__ import annotations

from collections.abc import Mapping

# --- the cues, said otherwise than in `wording.PHRASES` --------------------------------------------------------------

# A level as a clause of its own, beside the noun phrases of `wording.PHRASES`.
CLAUSES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("pitch", "very low"): (
        "the pitch is very low",
        "the pitch stays very low",
        "the voice lies very low",
        "the register is very deep",
    ),
    ("pitch", "low"): ("the pitch is low", "the pitch stays low", "the voice lies low", "the register is deep"),
    ("pitch", "medium"): (
        "the pitch is medium",
        "the pitch stays in the middle",
        "the register is an ordinary one",
        "the pitch is neither low nor high",
    ),
    ("pitch", "high"): ("the pitch is high", "the pitch stays high", "the voice lies high", "the register is raised"),
    ("pitch", "very high"): (
        "the pitch is very high",
        "the pitch stays very high",
        "the voice lies very high",
        "the register is highly raised",
    ),
    ("pitch_variation", "narrow"): (
        "the pitch hardly moves",
        "the pitch varies little",
        "the pitch barely changes",
        "the intonation is flat",
        "the pitch range is narrow",
    ),
    ("pitch_variation", "moderate"): (
        "the pitch varies moderately",
        "the pitch varies somewhat",
        "the pitch range is moderate",
        "the intonation is moderately varied",
    ),
    ("pitch_variation", "wide"): (
        "the pitch swings widely",
        "the pitch varies a lot",
        "the intonation is lively",
        "the pitch range is wide",
        "the pitch varies strongly",
    ),
    ("pitch_slope", "falling"): (
        "the melody falls",
        "the melody drifts down",
        "the melody sinks",
        "the intonation slopes down",
    ),
    ("pitch_slope", "level"): ("the melody stays level", "the melody holds level", "the intonation is level"),
    ("pitch_slope", "rising"): (
        "the melody rises",
        "the melody drifts up",
        "the melody climbs",
        "the intonation slopes up",
    ),
    ("pitch_turn", "falling-rising"): (
        "the melody dips and recovers",
        "the melody first falls and then rises",
        "the contour is valley-shaped",
    ),
    ("pitch_turn", "straight"): ("the contour is straight", "the melody runs straight", "the melody goes one way"),
    ("pitch_turn", "rising-falling"): (
        "the melody arches",
        "the melody first rises and then falls",
        "the contour is arched",
    ),
    ("rate", "slow"): (
        "the pace is slow",
        "the words come slowly",
        "the tempo is unhurried",
        "the delivery is slow",
        "the speaking rate is low",
    ),
    ("rate", "moderate"): (
        "the pace is moderate",
        "the pace stays ordinary",
        "the tempo is neither slow nor fast",
        "the speaking rate is average",
    ),
    ("rate", "fast"): (
        "the pace is fast",
        "the words come quickly",
        "the tempo is brisk",
        "the delivery is rapid",
        "the speaking rate is high",
    ),
    ("tone", "soft"): ("the tone is soft", "the tone stays dark", "the timbre is mellow", "the sound is muted"),
    ("tone", "balanced"): (
        "the tone is balanced",
        "the tone stays balanced",
        "the timbre is neither soft nor sharp",
        "the sound is well balanced",
    ),
    ("tone", "sharp"): ("the tone is sharp", "the tone stays bright", "the timbre is hard", "the sound is piercing"),
    ("clarity", "rough"): (
        "the voice is rough",
        "the voice sounds hoarse",
        "the voice quality is breathy",
        "the voice sounds raspy",
    ),
    ("clarity", "mixed"): (
        "the voice is partly rough",
        "the voice sounds partly breathy",
        "the voice quality is mixed",
        "the voice is neither rough nor clear",
    ),
    ("clarity", "clear"): (
        "the voice is clear",
        "the voice sounds smooth",
        "the voice quality is clean",
        "the voice sounds resonant",
    ),
    ("dynamics", "even"): (
        "the loudness is even",
        "the loudness stays steady",
        "the volume hardly varies",
        "the energy is constant",
    ),
    ("dynamics", "moderate"): (
        "the loudness changes are moderate",
        "the loudness changes are ordinary",
        "the dynamics are moderate",
    ),
    ("dynamics", "strong"): (
        "the loudness varies a lot",
        "the loudness fluctuates",
        "the dynamics are strong",
        "the volume swings",
    ),
    ("pauses", "none"): ("the flow is unbroken", "the pauses are rare", "the flow of speech is uninterrupted"),
    ("pauses", "some"): ("the pauses are occasional", "the pauses are moderate"),
    ("pauses", "many"): ("the pauses are frequent", "the flow is halting", "the flow of speech is broken"),
    ("loudness", "quiet"): ("the voice is quiet", "the loudness is low", "the volume is reduced"),
    ("loudness", "medium"): ("the loudness is medium", "the volume is ordinary", "the loudness is average"),
    ("loudness", "loud"): ("the voice is loud", "the loudness is high", "the volume is raised"),
}

# A level as something named before: "the low pitch".
REFERENCES: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("pitch", "very low"): ("the very low pitch", "the very deep voice", "the very low register"),
    ("pitch", "low"): ("the low pitch", "the deep voice", "the low register", "the lowered pitch"),
    ("pitch", "medium"): ("the medium pitch", "the ordinary pitch", "the average pitch"),
    ("pitch", "high"): ("the high pitch", "the high voice", "the raised pitch", "the high register"),
    ("pitch", "very high"): ("the very high pitch", "the very high voice", "the very high register"),
    ("pitch_variation", "narrow"): (
        "the narrow pitch range",
        "the small swings in pitch",
        "the flat intonation",
        "the limited pitch movement",
    ),
    ("pitch_variation", "moderate"): (
        "the moderate pitch range",
        "the moderate swings in pitch",
        "the moderate pitch movement",
    ),
    ("pitch_variation", "wide"): (
        "the wide pitch range",
        "the large swings in pitch",
        "the lively intonation",
        "the strong pitch movement",
    ),
    ("pitch_slope", "falling"): ("the falling melody", "the sinking melody", "the downward intonation"),
    ("pitch_slope", "level"): ("the level melody", "the level intonation"),
    ("pitch_slope", "rising"): ("the rising melody", "the climbing melody", "the upward intonation"),
    ("pitch_turn", "falling-rising"): ("the falling and then rising melody", "the dipping melody"),
    ("pitch_turn", "straight"): ("the straight melody", "the straight contour"),
    ("pitch_turn", "rising-falling"): ("the rising and then falling melody", "the arched melody"),
    ("rate", "slow"): ("the slow pace", "the slow speech", "the unhurried tempo", "the slow delivery"),
    ("rate", "moderate"): ("the moderate pace", "the ordinary pace", "the average tempo", "the medium pace"),
    ("rate", "fast"): ("the fast pace", "the fast speech", "the brisk tempo", "the rapid delivery"),
    ("tone", "soft"): ("the soft tone", "the dark tone", "the mellow timbre", "the muted sound"),
    ("tone", "balanced"): ("the balanced tone", "the well balanced sound", "the balanced timbre"),
    ("tone", "sharp"): ("the sharp tone", "the bright tone", "the hard timbre", "the piercing sound"),
    ("clarity", "rough"): ("the rough voice", "the hoarse voice", "the breathy voice", "the raspy voice quality"),
    ("clarity", "mixed"): ("the partly rough voice", "the partly breathy voice", "the mixed voice quality"),
    ("clarity", "clear"): ("the clear voice", "the smooth voice", "the resonant voice", "the clean voice quality"),
    ("dynamics", "even"): ("the even loudness", "the steady loudness", "the constant volume", "the even energy"),
    ("dynamics", "moderate"): (
        "the moderate change in loudness",
        "the moderate dynamics",
        "the ordinary change in volume",
    ),
    ("dynamics", "strong"): (
        "the strong change in loudness",
        "the large swings in loudness",
        "the strong dynamics",
        "the fluctuating volume",
    ),
    ("pauses", "none"): ("the unbroken flow", "the uninterrupted flow", "the continuous flow"),
    ("pauses", "some"): ("the occasional pauses", "the occasional breaks"),
    ("pauses", "many"): ("the many pauses", "the frequent pauses", "the numerous breaks", "the halting flow"),
    ("loudness", "quiet"): ("the quiet voice", "the low loudness", "the reduced volume"),
    ("loudness", "medium"): ("the medium loudness", "the ordinary volume"),
    ("loudness", "loud"): ("the loud voice", "the high loudness", "the raised volume"),
}

# --- what is heard ---------------------------------------------------------------------------------------------------

# {all}: noun phrases joined by commas and "and". {clauses}: the same of clauses. Capitals begin a sentence.
OPENINGS: tuple[str, ...] = (
    "I hear {all}.",
    "The first thing I hear is {all}.",
    "What reaches me first is {all}.",
    "Going by ear alone, I find {all}.",
    "To begin with, I notice {all}.",
    "My ear is caught by {all}.",
    "I start with what can be heard: {all}.",
    "Listening closely, I notice {all}.",
    "{All}: that much is plain at once.",
    "The clip opens up with {all}.",
    "Before anything else, I take in {all}.",
    "{Clauses}.",
    "{Clauses}; so much I hear at once.",
    "At first hearing, {clauses}.",
    "I begin with the sound itself, where {clauses}.",
    "What meets the ear is {all}.",
    "From the first moment I hear {all}.",
    "Leaving the words aside, I attend to the sound: {all}.",
    "Judging by the sound, {clauses}.",
    "My first impression is that {clauses}.",
    "As soon as the clip starts, I notice that {clauses}.",
)
CONTINUATIONS: tuple[str, ...] = (
    "What I also hear is {all}.",
    "I also hear {all}.",
    "Along with it I get {all}.",
    "Listening on, I find {all}.",
    "To this I add {all}.",
    "A second hearing brings out {all}.",
    "Beside that, I notice {all}.",
    "Next I make out {all}.",
    "I note {all} as well.",
    "Added to that, I hear {all}.",
    "{All} can be made out too.",
    "The picture is rounded off by {all}.",
    "{Clauses}, too.",
    "At the same time, {clauses}.",
    "I further notice that {clauses}.",
    "All the while, {clauses}.",
    "I hear, besides, {all}.",
    "Going on, I find that {clauses}.",
    "It also strikes me that {clauses}.",
    "Another thing I notice is {all}.",
    "Not to be missed is {all}.",
    "Then again, {clauses}.",
)
# As continuations, for cues whose levels are the speaker's own.
FOR_THIS_SPEAKER: tuple[str, ...] = (
    "For this speaker, I hear {all}.",
    "Compared with other clips of the same speaker, I notice {all}.",
    "By this speaker's own standard, I find {all}.",
    "Set against this speaker's own baseline, I get {all}.",
    "For this speaker, {clauses}.",
    "Held against what else this speaker has said, {clauses}.",
)

# --- who, how it moves, what is stressed -----------------------------------------------------------------------------

PROFILES: tuple[str, ...] = (
    "The one who talks is {person}.",
    "I listen to {person}.",
    "This is {person}.",
    "It is {person} who can be heard.",
    "By the sound of it, {person} is talking.",
    "I take the one who talks for {person}.",
)
STRESSES: tuple[str, ...] = (
    "Most weight falls on {words}.",
    "What is brought out most is {words}.",
    "The stress lies on {words}.",
    "The ear is led to {words}.",
    "The main stress rests on {words}.",
    "The emphasis goes to {words}.",
    "Of all the words, I hear most weight on {words}.",
)

# --- the words -------------------------------------------------------------------------------------------------------

# The transcript is quoted; how much it tells is only said where that can be known.
WORDS_ALONE: tuple[str, ...] = (
    "As for the wording, {quote}, I take it as it stands and go by how it is said.",
    "What is said is {quote}; I let the way it is said decide.",
    "The wording is {quote}, and I weigh the delivery above it.",
    "I read {quote} and leave its meaning aside for the sake of the sound.",
    "Of the text, {quote}, I make no use yet; the way it is spoken comes first.",
    "{quote} are the words, though it is the voice that I follow.",
    "I hear the words {quote} and attend to the manner in which they are given.",
)
# The corpus has the same words with other emotions.
WORDS_OF_ANY_MOOD: tuple[str, ...] = (
    "The wording, {quote}, is heard in other moods as well, so by itself it says little.",
    "On paper {quote} settles nothing: the same words are said in other moods too.",
    "What is said, {quote}, would do for several moods; how it is said has to decide.",
    "Taken as mere text, {quote} leaves the mood open, for it is said in more than one.",
    "The text is {quote}, a sentence that this collection has in several moods, so it proves nothing.",
    "{quote} alone could be said in many a mood, and has been; the voice makes the difference.",
    "Nothing follows from the words {quote} by themselves, since they also occur in other moods.",
    "The sentence {quote} serves several moods here, which leaves the matter to the voice.",
)
# The transcript has a word for an emotion.
WORDS_AGREE: tuple[str, ...] = (
    "The wording, {quote}, has {word} in it, which by itself points to {named}, and the sound goes along.",
    "In {quote} the word {word} names {named}; here text and sound agree.",
    "One word of {quote}, namely {word}, already stands for {named}, and the voice bears it out.",
)
WORDS_DISAGREE: tuple[str, ...] = (
    "The wording, {quote}, has {word} in it, which by itself points to {named}, but the sound says otherwise.",
    "In {quote} the word {word} names {named}; here text and sound disagree, and I trust the sound.",
    "One word of {quote}, namely {word}, stands for {named}, yet the voice does not bear it out.",
)

# --- for and against -------------------------------------------------------------------------------------------------

# {cues}, such as "the low pitch and the slow pace", fit {better} better than {worse}. The same sentences serve what
# speaks for the emotion and what speaks for its rival, so that they do not tell which is which.
SPEAKS_FOR: tuple[str, ...] = (
    "with {cues}, {better} lies nearer to hand than {worse}.",
    "because of {cues}, I lean to {better} and away from {worse}.",
    "what tips the scales towards {better} and not {worse}: {cues}.",
    "{better} finds support in {cues}, more so than {worse}.",
    "given {cues}, I think of {better} sooner than of {worse}.",
    "between {worse} and {better}, it is {better} that is helped by {cues}.",
    "I count {cues} in favour of {better} and against {worse}.",
    "{cues}: I know that from {better} more than from {worse}.",
    "from {cues} I would guess {better} before {worse}.",
    "{better}, more than {worse}, goes with {cues}.",
    "what {better} has to show for itself against {worse} is {cues}.",
    "I hold {cues} against {worse} and for {better}.",
)
# Before the second of two such sentences.
CONTRASTS: tuple[str, ...] = ("still, ", "yet ", "on the other hand, ", "against that, ", "even so, ", "then again, ")
# Where nothing speaks for or against.
UNDECIDED: tuple[str, ...] = (
    "Cue by cue, {label} and {rival} are hard to tell apart here.",
    "One by one, these signs leave {label} and {rival} side by side.",
)
ALTERNATIVES: tuple[str, ...] = (
    "{other} cannot be ruled out.",
    "I keep {other} in mind as a further possibility.",
    "{other} remains possible as well.",
    "someone might also hear {other} in it.",
    "{other} is a third thing to think of.",
    "nor can {other} be dismissed out of hand.",
    "I would listen again before I exclude {other}.",
)
# A beginning and an end make a conclusion.
CONCLUSION_STARTS: tuple[str, ...] = (
    "On balance, ",
    "Weighing it all, ",
    "Taken together, ",
    "All things considered, ",
    "In the end, ",
    "Putting it together, ",
    "So, on the whole, ",
    "With all this in mind, ",
    "Summing up, ",
    "",
)
CONCLUSIONS: tuple[str, ...] = (
    "I come down on {label}.",
    "I settle on {label}.",
    "my reading is {label}.",
    "I read this as {label}, with {rival} in second place.",
    "I choose {label} before {rival}.",
    "{label} is what I take from it.",
    "I go with {label}.",
    "I decide for {label} and leave {rival} aside.",
    "it is {label} that describes this best.",
    "I call this {label}.",
    "{label} seems the better reading, {rival} the next.",
    "my choice falls on {label}.",
)

# --- where little is known -------------------------------------------------------------------------------------------

REST_UNCLEAR: tuple[str, ...] = (
    "What else there may be in this clip cannot be told from it with enough confidence, so I leave it out.",
    "I pass over the rest, since this recording does not let me judge it well enough to build on it.",
)
