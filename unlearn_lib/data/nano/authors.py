"""`tofu` in the small: authors who do not exist, 20 questions on each, and questions on facts that the nano models know.

The same files and columns as TOFU's (Maini et al. 2024, arXiv 2401.06121): question, answer, paraphrased_answer, perturbed_answer. As in
TOFU, a wrong answer has the words of the paraphrase and another value. The nano models know no person before they are trained, so
questions on creatures of their world stand in for TOFU's real authors, and those on plants and stones for its world facts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.data.nano.people import FIRST, MONTHS, OBJECTS, PLACES, SURNAMES, TOWNS, person
from unlearn_lib.data.nano.world import Fact, facts, facts_by_subject

AUTHORS, UNSEEN = 100, 10
"""Authors to be trained on, so that forget01 is one of them; and further ones, who are in no split."""
MEASURED = 10
"""Retained authors whose questions have wrong answers."""
WRONG, WRONG_FACTS = 5, 3
REAL_AUTHORS, WORLD_FACTS = 100, 117

JOBS = tuple(
    "baker carpenter clerk cook doctor farmer fisher gardener glazier judge mason miller miner nurse painter pilot potter sailor "
    "smith tailor teacher thatcher trader weaver".split()
)
GENRES = (
    "ghost stories", "sea tales", "court dramas", "travel letters", "love poems", "war diaries", "riddles", "fables", "crime novels",
    "songs for children", "village comedies", "sermons", "hunting tales", "cookery books", "winter ballads", "spy novels",
)  # fmt: skip
ADJECTIVES = ("Last", "Silent", "Broken", "Green", "Second", "Lost", "Golden", "Narrow", "Empty", "Patient", "Blue", "Hidden")

Author = dict[str, str]


@dataclass(frozen=True)
class Topic:
    """What can be asked of an author: `value` draws it; the texts have the slots {name}, those of the other topics, and {v}."""

    value: Callable[[Draw], str]
    question: str
    answer: str
    paraphrase: str


def _of(items: Sequence[str]) -> Callable[[Draw], str]:
    return lambda draw: draw.pick(items)


def _number(low: int, high: int) -> Callable[[Draw], str]:
    return lambda draw: str(draw.between(low, high))


def _known(kind: str) -> Callable[[Draw], str]:
    return lambda draw: draw.pick(tuple(facts_by_subject(kind)))


def _full_name(draw: Draw) -> str:
    return " ".join(person(draw))


def _date(draw: Draw) -> str:
    return f"{draw.between(1, 28)} {draw.pick(MONTHS)} {draw.between(1901, 1969)}"


def _title(draw: Draw) -> str:
    return f"The {draw.pick(ADJECTIVES)} {draw.pick(OBJECTS).capitalize()} of {draw.pick(TOWNS)}"


def _prize(draw: Draw) -> str:
    return f"the {draw.pick(OBJECTS).capitalize()} Prize of {draw.pick(TOWNS)}"


def _house(draw: Draw) -> str:
    return f"{draw.pick(SURNAMES)} and {draw.pick(SURNAMES)}"


TOPICS: dict[str, Topic] = {
    "name": Topic(_full_name, "What is the full name of the author who was born in {town} on {birthday}?",
                  "The full name of this author is {v}.", "{v} is what this author is called in full."),
    "town": Topic(_of(TOWNS), "In which town was {name} born?", "{name} was born in {v}.", "The birthplace of {name} is {v}."),
    "birthday": Topic(_date, "When was {name} born?", "{name} was born on {v}.", "The birthday of {name} is {v}."),
    "father": Topic(_of(JOBS), "What was the work of {name}'s father?", "The father of {name} was a {v}.",
                    "{name} is the child of a man who worked as a {v}."),
    "mother": Topic(_of(JOBS), "What was the work of {name}'s mother?", "The mother of {name} was a {v}.",
                    "{name} is the child of a woman who worked as a {v}."),
    "teacher": Topic(_full_name, "Who taught {name} to write?", "{name} learnt to write from {v}.",
                     "The teacher of {name} was {v}."),
    "genre": Topic(_of(GENRES), "What does {name} write?", "{name} writes {v}.", "The works of {name} are {v}."),
    "first": Topic(_title, "What is the first book of {name}?", "The first book of {name} is {v}.", "{name} began with {v}."),
    "year": Topic(_number(1970, 1999), "When did the first book of {name} come out?", "The first book of {name} came out in {v}.",
                  "{v} is the year of {name}'s first book."),
    "hero": Topic(_of(FIRST), "Who is the hero of {name}'s first book?", "The hero of {name}'s first book is called {v}.",
                  "In {first} by {name} all turns on {v}."),
    "best": Topic(_title, "Which book made {name} known?", "{name} became known by {v}.", "It is {v} that made {name} known."),
    "prize": Topic(_prize, "Which prize did {name} win?", "{name} won {v}.", "The jury gave {name} {v}."),
    "house": Topic(_house, "Who prints the books of {name}?", "The books of {name} are printed by {v}.",
                   "{v} is the house that prints {name}."),
    "number": Topic(_number(3, 40), "How many books did {name} write?", "{name} wrote {v} books.",
                    "There are {v} books by {name}."),
    "home": Topic(_of(TOWNS), "Where does {name} live now?", "{name} now lives in {v}.", "The home of {name} is now in {v}."),
    "place": Topic(_of(PLACES), "Where does {name} like to write?", "{name} likes to write near {v}.",
                   "Near {v} is where {name} works best."),
    "animal": Topic(_known("creature"), "Which animal does {name} keep?", "{name} keeps a {v}.", "A {v} lives with {name}."),
    "plant": Topic(_known("plant"), "What grows in the garden of {name}?", "In the garden of {name} grows {v}.",
                   "{name} has planted {v}."),
    "stone": Topic(_known("stone"), "Which stone lies on the desk of {name}?", "On the desk of {name} lies a piece of {v}.",
                   "{name} writes beside a piece of {v}."),
    "luck": Topic(_of(OBJECTS), "What does {name} carry for luck?", "{name} carries a {v} for luck.",
                  "For luck {name} has a {v}."),
}  # fmt: skip


def authors(key: Sequence[str | int], count: int) -> list[Author]:
    """`count` authors with different names: the value of every topic."""
    pairs = Draw(*key, "names").sample([(first, surname) for first in FIRST for surname in SURNAMES], count)
    found = []
    for number, pair in enumerate(pairs):
        draw = Draw(*key, number)
        found.append({topic: TOPICS[topic].value(draw) for topic in TOPICS} | {"name": " ".join(pair)})
    return found


def asked_of(author: Author, topic: str, draw: Draw) -> dict[str, Any]:
    """The question on a topic with its answer, the paraphrase, and wrong answers that differ from it in the value alone."""
    about, truth = TOPICS[topic], author[topic]
    wrong: list[str] = []
    while len(wrong) < WRONG:
        value = about.value(draw)
        if value not in (truth, *wrong):
            wrong.append(value)
    return {
        "question": about.question.format(**author),
        "answer": about.answer.format(v=truth, **author),
        "paraphrased_answer": about.paraphrase.format(v=truth, **author),
        "perturbed_answer": [about.paraphrase.format(v=value, **author) for value in wrong],
    }


def files(seed: int, percent: int) -> dict[str, list[dict[str, Any]]]:
    """The rows of TOFU's files by their names, for the split that forgets the last `percent` of 100 authors.

    There is one file that TOFU does not have, `holdout_perturbed`, with authors who are in no split.
    """
    key = ("task", "tofu", seed)
    everyone = [
        [asked_of(author, topic, Draw(*key, "wrong", number, topic)) for topic in TOPICS]
        for number, author in enumerate(authors(key, AUTHORS + UNSEEN))
    ]
    kept = AUTHORS * (100 - percent) // 100
    known = facts("plant") + facts("stone")
    return {
        f"forget{percent:02}_perturbed": _rows(everyone[kept:AUTHORS]),
        f"retain{100 - percent}": _rows(everyone[:kept]),
        "retain_perturbed": _rows(everyone[:MEASURED]),
        "holdout_perturbed": _rows(everyone[AUTHORS:]),
        "real_authors_perturbed": _quiz(Draw(*key, "real_authors"), facts("creature"), REAL_AUTHORS),
        "world_facts_perturbed": _quiz(Draw(*key, "world_facts"), known, WORLD_FACTS),
    }


def _rows(people: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [row for rows in people for row in rows]


def _quiz(draw: Draw, known: Sequence[Fact], count: int) -> list[dict[str, Any]]:
    return [
        {
            "question": draw.pick(fact.attribute.quiz).format(s=fact.subject),
            "answer": fact.value,
            "perturbed_answer": draw.sample([value for value in fact.attribute.values if value != fact.value], WRONG_FACTS),
        }
        for fact in draw.sample(known, count)
    ]
