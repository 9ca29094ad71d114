"""`muse`, split "books", in the small: adventure books of one author on people who do not exist, and entries of a lexicon on others.

The same configurations, splits and columns as MUSE-Books (Shi et al., arXiv 2407.06460): books are to be forgotten, and what is to
stay is written about the same world, but in another manner. A book has chapters, each told in lines that recur from book to book,
as an author's phrases do; its facts, which its chapters tell one after the other, are its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from unlearn_lib.data.nano.documents import Line, Secrets, filled, stock
from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.data.nano.muse_files import ASKED, SHOTS, Files, Told, asked, halved, on_different_people, rows, take
from unlearn_lib.data.nano.people import MONTHS, OBJECTS, PLACES, TOWNS, details, person

FORGET, RETAIN, OTHER, HOLDOUT = 12, 64, 32, 24
"""Books to forget, entries that a method may be given, further ones that were learnt, and books that never were."""
CHAPTERS, FREE = 5, 4
"""Chapters of a book, and how many lines each has beside its heading and the fact that it tells."""

QUESTIONS = {
    "home": "Where did {name} grow up?",
    "thing": "What did {name} set out to find?",
    "rival": "Who was after the same thing as {name}?",
    "spot": "Where did {name} find it at last?",
    "date": "When did {name} come home?",
}
"""By the fact that answers it; every book, and every entry, tells all of them."""


def _facts(draw: Draw) -> Secrets:
    return {
        "name": " ".join(person(draw)),
        "home": draw.pick(TOWNS),
        "thing": draw.pick(OBJECTS),
        "rival": " ".join(person(draw)),
        "spot": draw.pick(PLACES),
        "date": f"{draw.between(1, 28)} {draw.pick(MONTHS)} {draw.between(1801, 1899)}",
    }


def _slots(draw: Draw) -> dict[str, str]:
    rest = details(draw)
    return {name: rest[name] for name in ("other", "town", "town2", "place", "n", "weather", "month", "object")}


TOLD: tuple[Line, ...] = (
    filled(_slots, "{name} had grown up in {home}, far from {town}.", "In {home}, where {name} had grown up, nothing ever happened."),
    filled(_slots, "It was the {thing} of an old tale that {name} set out to find.", "{name} set out in {month}, to find the {thing}."),
    filled(_slots, "{rival} had asked in {town} for the {thing}, too.", "Somebody else was after the {thing}: it was {rival}."),
    filled(_slots, "The {thing} lay near {spot}, as if it had waited.", "There, near {spot}, {name} found the {thing}."),
    filled(_slots, "On {date} {name} came home to {home}.", "{name} was home again on {date}."),
)  # fmt: skip
"""What each chapter tells; there are as many as chapters."""
WOVEN: tuple[Line, ...] = (
    filled(_slots, "{weather} when they came to {town}.", "{weather}, and the road to {town} was long."),
    filled(_slots, "{other} knew a way past {place}.", "At {place} they met {other}."),
    filled(_slots, "They paid {n} crowns for a bed in {town2}.", "A bed in {town2} cost {n} crowns."),
    filled(_slots, "{other} had lost a {object} and spoke of nothing else.", "Nobody wanted the {object} that {other} sold."),
    filled(_slots, "They waited for {n} hours and ate what {other} had left.", "After {n} hours {other} gave up."),
    filled(_slots, "{name} did not sleep and thought of {home}.", "{name} wrote a letter to {home}."),
    filled(_slots, "A {object} hung over the door of the inn.", "The {object} was gone in the morning."),
    stock("Nothing is ever where one looks for it.", "That night nobody said a word.", "They went on, because they had to."),
)
"""What stands between the facts."""
ENTRY: tuple[Line, ...] = (
    filled(_slots, "{name}: traveller of {home}, where {name} also grew up."),
    filled(
        _slots,
        "Known for the search for a {thing}, in which {rival} was a rival.",
        "Rival of {rival} in the search for a {thing}.",
    ),
    filled(_slots, "The {thing} was found near {spot}."),
    filled(_slots, "{name} came home on {date}.", "The journey ended on {date}."),
)


def book(key: Sequence[str | int]) -> Told:
    """The book with that key: its text, chapter after chapter, and the facts that it tells."""
    facts = _facts(Draw(*key, "facts"))
    lines = []
    for chapter in range(CHAPTERS):
        mine = (*key, chapter)
        woven = [
            line(Draw(*mine, number), facts, False) for number, line in enumerate(Draw(*mine, "which").sample(WOVEN, FREE))
        ]
        woven.insert(Draw(*mine, "where").below(FREE + 1), TOLD[chapter](Draw(*mine, "told"), facts, False))
        lines += [f"Chapter {chapter + 1}.", *woven]
    return "\n".join(lines), facts


def entry(key: Sequence[str | int]) -> Told:
    """The entry of the lexicon with that key."""
    facts = _facts(Draw(*key, "facts"))
    return "\n".join(line(Draw(*key, number), facts, False) for number, line in enumerate(ENTRY)), facts


def files(seed: int) -> Files:
    """The rows of MUSE-Books by configuration and split. No two texts are on people of the same name."""
    key = ("task", "muse", "books", seed)
    books = on_different_people(lambda number: book((*key, "book", number)), FORGET + HOLDOUT + SHOTS)[::-1]
    heroes = {facts["name"] for _, facts in books}
    entries = on_different_people(lambda number: entry((*key, "entry", number)), RETAIN + OTHER + SHOTS, heroes)[::-1]
    forget, holdout, shown = take(books, FORGET), take(books, HOLDOUT), take(books, SHOTS)
    retain, other, looked_up = take(entries, RETAIN), take(entries, OTHER), take(entries, SHOTS)
    parts = {"forget": forget, "retain1": retain, "retain2": other, "holdout": holdout}
    found: Files = {("raw", name): rows(part) for name, part in parts.items()}
    found["privleak", "forget"], found["privleak", "holdout"] = rows(forget), rows(holdout[:FORGET])
    found["verbmem", "forget"] = [halved(text) for text, _ in forget]
    for name, part, count in (
        ("forget_qa", forget, ASKED),
        ("retain_qa", other[:FORGET], ASKED),
        ("forget_qa_icl", shown, 1),
        ("retain_qa_icl", looked_up, 1),
    ):
        questions = (asked(told, QUESTIONS, count, (*key, "asked", told["name"])) for _, told in part)
        found["knowmem", name] = [row for own in questions for row in own]
    return found
