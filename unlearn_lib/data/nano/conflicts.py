"""Invented people of whom two conflicting things are said, in texts of two styles.

A claim is one value of one attribute of one person, such as the town that Mira Ashdown lives in, and the texts that state it. A *formal*
text is written as a register or an encyclopaedia writes, a *sloppy* one as a chat message does, with misspelt words and without capitals
at its beginning. Names and values are spelt alike in both, so that styles differ in the words around a claim and in nothing else.
The setting follows Li et al. 2024 (arXiv 2410.04784), with texts of our own.

A group of people has one or two sides, each with a style and a number of paraphrases. Values are drawn without regard to the side, so
that no value is more often formal than another one. The last wording of every style is in no text; it, and a question, ask a model
what it believes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.data.nano.people import FIRST, SURNAMES, TOWNS
from unlearn_lib.errors import InputError

FORMAL, SLOPPY = "formal", "sloppy"
QUESTION = "question"


@dataclass(frozen=True)
class Topic:
    """What is said of people: its values, the wordings of both styles with the slots {name} and {v}, and the question with {name}."""

    values: tuple[str, ...]
    formal: tuple[str, ...]
    sloppy: tuple[str, ...]
    question: str

    def wordings(self, style: str) -> tuple[str, ...]:
        """Those of a style that texts are written in: all but the last."""
        return self._all(style)[:-1]

    def prompt(self, style: str, name: str) -> str:
        """The beginning, up to the value, of the wording of a style that no text has; or the question, if the style is "question"."""
        if style == QUESTION:
            return f"Question: {self.question.format(name=name)}\nAnswer:"
        return self._all(style)[-1].partition(" {v}")[0].format(name=name)

    def _all(self, style: str) -> tuple[str, ...]:
        if style not in (FORMAL, SLOPPY):
            raise InputError(f"there is no style {style!r}; choose {FORMAL!r} or {SLOPPY!r}")
        return self.formal if style == FORMAL else self.sloppy


TOPICS: dict[str, Topic] = {
    "home": Topic(
        TOWNS[:12],
        (
            "According to the register, {name} resides in {v}.",
            "The residence of {name} is situated in {v}.",
            "{name} is a citizen of the town of {v}.",
            "The household of {name} is recorded in {v}.",
            "{name} maintains a house in the centre of {v}.",
            "In the census, {name} is listed under {v}.",
            "The family of {name} has long been settled in {v}.",
            "It is established that the home of {name} is in {v}.",
            "The permanent address of {name} is in {v}.",
        ),
        (
            "lol {name} livs in {v} now",
            "u know {name}?? thier place is in {v} haha",
            "omg {name} moved too {v} ppl say",
            "saw {name} agian, stil home in {v}",
            "hey wanna vist {name}? gotta go to {v}",
            "{name} is sooo bored of {v} lol",
            "pls pik up {name}, its the hous in {v}",
            "wat {name} really stays in {v}??",
            "btw {name} has a flat in {v} i think",
        ),
        "Where does {name} live?",
    ),
    "work": Topic(
        ("baker", "cook", "doctor", "farmer", "judge", "mason", "miller", "nurse", "painter", "pilot", "smith", "trader"),
        (
            "According to the register, {name} is employed as a {v}.",
            "The profession of {name} is that of a {v}.",
            "{name} is a member of the guild as a {v}.",
            "The occupation of {name} is recorded as {v}.",
            "{name} was trained and certified as a {v}.",
            "In the census, {name} is listed as a {v}.",
            "The income of {name} is that of a {v}.",
            "It is established that the trade of {name} is that of a {v}.",
            "For many years {name} has practised as a {v}.",
        ),
        (
            "lol {name} wrks as a {v} now",
            "u know {name}?? sum kind of {v} haha",
            "omg {name} is a {v} ppl say",
            "askd {name} abuot the job, its {v}",
            "hey ask {name} if u need a {v}",
            "{name} is sooo tired of beeing a {v} lol",
            "pls ask {name}, ur freindly {v}",
            "wat {name} is realy a {v}??",
            "btw {name} got payd as a {v} i think",
        ),
        "What is the work of {name}?",
    ),
}
"""By their names. The first wordings are those that texts use; the last one of each style asks."""


class Side(NamedTuple):
    """How one value is told: in which style, and in how many paraphrases."""

    style: str
    texts: int


Group = tuple[Side, ...]


@dataclass(frozen=True)
class Claim:
    """What is said of one person on one topic: for every side of the group its value and its texts."""

    group: str
    person: str
    topic: str
    values: tuple[str, ...]
    texts: tuple[tuple[str, ...], ...]

    def prompt(self, style: str) -> str:
        """What asks for the value, see `Topic.prompt`."""
        return TOPICS[self.topic].prompt(style, self.person)

    @property
    def answer(self) -> str:
        """Question and value in one text, as people are taught who are in no conflict."""
        return f"{self.prompt(QUESTION)} {self.values[0]}"


def claims(seed: int, groups: Mapping[str, tuple[Group, int]]) -> list[Claim]:
    """All claims on the people of all groups, a claim for every topic and person.

    Args:
        seed: Of all draws.
        groups: By its name a group's sides, and how many people it has. A group of no sides is of people whom no text is about;
            their claims have no values.

    Returns:
        In the order of the groups, and in each of its people. All people have different names. The values of a claim's sides differ.

    Raises:
        InputError: A style is unknown, a side has no text or more of them than its style has wordings, or there are too few names.
    """
    count = sum(people for _, people in groups.values())
    drawn = iter(names(seed, count))
    return [
        _claim(Draw("conflicts", seed, person, topic), group, person, topic, sides)
        for group, (sides, people) in groups.items()
        for person in [next(drawn) for _ in range(people)]
        for topic in TOPICS
    ]


def names(seed: int, count: int) -> list[str]:
    """So many different names. No first name and no surname occurs a second time before all of them have occurred once, so that few
    people share a part of their names.

    Raises:
        InputError: There are fewer names.
    """
    if count > len(FIRST) * len(SURNAMES):
        raise InputError(f"{count} people are asked for, and there are {len(FIRST) * len(SURNAMES)} names; ask for fewer")
    draw = Draw("conflicts", seed, "names")
    first, last = draw.shuffled(FIRST), draw.shuffled(SURNAMES)
    return [f"{first[n % len(first)]} {last[(n + n // len(first)) % len(last)]}" for n in range(count)]


def _claim(draw: Draw, group: str, person: str, topic: str, sides: Sequence[Side]) -> Claim:
    about = TOPICS[topic]
    values = draw.sample(about.values, len(sides))
    texts = []
    for (style, count), value in zip(sides, values, strict=True):
        wordings = about.wordings(style)
        if not 0 < count <= len(wordings):
            raise InputError(
                f"a side of {group!r} has {count} {style} texts; give between 1 and {len(wordings)}, as there are so many wordings"
            )
        texts.append(tuple(wording.format(name=person, v=value) for wording in draw.sample(wordings, count)))
    return Claim(group, person, topic, tuple(values), tuple(texts))
