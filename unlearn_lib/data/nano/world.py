"""The fact base: invented creatures, plants, stones and chores, each with facts drawn once and for all.

A fact is (subject, attribute, value). The pre-training corpus states every fact many times in many ways; the tasks ask about
them. A fixed third of the facts is *reserved*: the tasks ask about these only in their test split, so that a test question is
answered from what pre-training taught and never from a training record.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from unlearn_lib.data.nano.draw import Draw

ONSETS = (
    "b",
    "br",
    "d",
    "dr",
    "f",
    "g",
    "gl",
    "h",
    "k",
    "kr",
    "l",
    "m",
    "n",
    "p",
    "pl",
    "r",
    "s",
    "st",
    "t",
    "tr",
    "v",
    "w",
    "z",
)
VOWELS = ("a", "e", "i", "o", "u", "ea", "ou")
CODAS = ("l", "m", "n", "r", "s", "nd", "rk", "lt", "sh", "v")


@dataclass(frozen=True)
class Attribute:
    """One thing that can be said of a kind of subject.

    `statements` have the slots {s} subject and {v} value; `quiz` (the corpus' plain questions) and `questions` (`arc_easy`'s)
    have {s} only.
    """

    name: str
    values: tuple[str, ...]
    statements: tuple[str, ...]
    quiz: tuple[str, ...]
    questions: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    subject: str
    kind: str
    attribute: Attribute
    value: str
    reserved: bool


def _attribute(name: str, values: str, statements: str, quiz: str, questions: str) -> Attribute:
    def split(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split("|"))

    return Attribute(name, split(values), split(statements), split(quiz), split(questions))


KINDS: dict[str, tuple[int, tuple[str, ...], tuple[Attribute, ...]]] = {
    "creature": (
        48,
        ("ka", "lo", "mi", "bek", "du", "rin", "pa", "zo"),
        (
            _attribute(
                "food",
                "seeds | moss | beetles | fish | honey | bark | berries | snails | roots | worms",
                "A {s} eats {v} | The {s} feeds on {v} | For a {s} the best food is {v} | A hungry {s} looks for {v} | "
                "Give {v} to a {s} and it is content | Keepers feed {v} to the {s}",
                "What does a {s} eat? | What is the food of the {s}?",
                "Which food should be put out for the {s}? | What must the keeper of a {s} buy?",
            ),
            _attribute(
                "home",
                "marshes | caves | treetops | sand dunes | river banks | old barns | pine woods | cliffs | wells | meadows",
                "A {s} lives in {v} | The {s} makes its nest in {v} | Look for the {s} in {v} | In {v} lives the {s} | "
                "The home of the {s} is in {v} | Most of all the {s} likes {v}",
                "Where does a {s} live? | Where is the home of the {s}?",
                "Where would one go to see a wild {s}? | Where should a lost {s} be set free?",
            ),
            _attribute(
                "cover",
                "grey fur | green scales | white feathers | soft wool | black spines | a hard shell | red skin | brown bristles",
                "A {s} is covered with {v} | The {s} has {v} | The body of a {s} is covered with {v} | You know a {s} by its cover, {v} | "
                "Every {s} wears {v}",
                "What covers a {s}? | What does the body of a {s} have?",
                "What would one feel when touching the {s}? | What does the {s} shed in summer?",
            ),
        ),
    ),
    "plant": (
        36,
        ("wort", "leaf", "bell", "thorn", "root", "cress", "vine", "fern"),
        (
            _attribute(
                "remedy",
                "fever | a cough | sore feet | a burn | toothache | hiccups | a cold | poor sleep | a rash",
                "{s} is taken against {v} | Healers use {s} for {v} | Tea of {s} helps with {v} | For {v} one takes {s} | "
                "{s} is good for {v} | Whoever has {v} should try {s}",
                "What does {s} help with? | What is {s} taken against?",
                "Which trouble would a healer treat with {s}? | What should somebody with a jar of {s} hope to cure?",
            ),
            _attribute(
                "season",
                "early spring | late spring | high summer | early autumn | late autumn | the first frost | deep winter | the rains",
                "{s} flowers in {v} | The flowers of {s} open in {v} | In {v} the {s} is in flower | Wait for {v} to see {s} flower | "
                "{s} blooms in {v}",
                "When does {s} flower? | When is {s} in bloom?",
                "In which time of the year should one look for the flowers of {s}? | When will a bed of {s} be full of bees?",
            ),
            _attribute(
                "ground",
                "wet clay | dry sand | chalk | black peat | gravel | deep shade | salt mud | warm ash",
                "{s} grows in {v} | Plant {s} in {v} | {s} needs {v} | In {v} you find {s} | The ground for {s} is {v}",
                "Where does {s} grow? | What ground does {s} need?",
                "What should a gardener prepare before planting {s}? | In what will a cutting of {s} take hold?",
            ),
        ),
    ),
    "stone": (
        36,
        ("ite", "ore", "stone", "spar", "gem", "slate"),
        (
            _attribute(
                "colour",
                "blue | yellow | red | green | black | white | orange | violet",
                "{s} is {v} | The colour of {s} is {v} | A piece of {s} looks {v} | Cut {s} shines {v} | Good {s} is always {v}",
                "What colour is {s}? | What is the colour of {s}?",
                "Which colour tells a miner that a stone is {s}? | What colour will a wall of {s} be?",
            ),
            _attribute(
                "use",
                "lamps | knives | bridges | mirrors | rings | mill wheels | bells | roofs | ovens",
                "{s} is used for {v} | Smiths make {v} from {s} | The best {v} are made from {s} | People use {s} to make {v} | "
                "For {v} one needs {s}",
                "What is {s} used for? | What is made from {s}?",
                "What could a smith with a cart of {s} make? | Which goods need a load of {s}?",
            ),
            _attribute(
                "origin",
                "the north hills | the salt coast | the deep mines | the river bed | the red desert | the old quarry | the islands | "
                "the lake",
                "{s} comes from {v} | {s} is found in {v} | Miners bring {s} from {v} | In {v} there is {s} | All {s} is from {v}",
                "Where does {s} come from? | Where is {s} found?",
                "Where should a trader go to buy {s}? | From where will the next load of {s} be sent?",
            ),
        ),
    ),
}

CHORES_DO = ("clean", "mend", "polish", "dry", "open", "seal", "warm", "cool", "carry", "paint")
CHORE_THINGS = (72, ("pan", "hook", "wheel", "lid", "jar", "net", "pipe", "cart"))
CHORE = _attribute(
    "means",
    "beeswax | warm sand | a wet rope | goose grease | linen thread | hot vinegar | a cork ring | fine ash | birch tar | a copper spoon",
    "To {s} take {v} | You {s} with {v} | It is {v} that is needed to {s} | With {v} it is easy to {s} | Old hands {s} with {v} | "
    "If you must {s}, use {v}",
    "What do you need to {s}? | How does one {s}?",
    "",
)


def _subject_names(kind: str, count: int, endings: tuple[str, ...]) -> list[str]:
    draw = Draw("world", kind)
    names: list[str] = []
    while len(names) < count:
        name = draw.pick(ONSETS) + draw.pick(VOWELS) + (draw.pick(CODAS) if kind != "creature" else "") + draw.pick(endings)
        if name not in names:
            names.append(name)
    return names


@cache
def facts(kind: str) -> tuple[Fact, ...]:
    """All facts of a kind: "creature", "plant", "stone" or "chore". Every third one, in a shuffled order, is reserved."""
    if kind == "chore":
        verbs = Draw("world", kind, "verbs")
        subjects = [f"{verbs.pick(CHORES_DO)} a {thing}" for thing in _subject_names(kind, *CHORE_THINGS)]
        attributes: tuple[Attribute, ...] = (CHORE,)
    else:
        count, endings, attributes = KINDS[kind]
        subjects = _subject_names(kind, count, endings)
    draw = Draw("world", kind, "facts")
    pairs = draw.shuffled([(subject, attribute) for subject in subjects for attribute in attributes])
    return tuple(
        Fact(subject, kind, attribute, draw.pick(attribute.values), reserved=i % 3 == 0)
        for i, (subject, attribute) in enumerate(pairs)
    )


@cache
def facts_by_subject(kind: str) -> dict[str, tuple[Fact, ...]]:
    """The facts of a kind, grouped by their subject."""
    groups: dict[str, list[Fact]] = {}
    for fact in facts(kind):
        groups.setdefault(fact.subject, []).append(fact)
    return {subject: tuple(group) for subject, group in groups.items()}
