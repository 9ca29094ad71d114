"""`muse` in the small: reports of court cases on people who do not exist, with questions on what the reports say.

The same configurations, splits and columns as MUSE-News (Shi et al., arXiv 2407.06460). The folds are made as there: `sust` has disjoint
sets of articles, `scal` their growing unions, and the first of both is what is to be forgotten.
"""

from __future__ import annotations

from unlearn_lib.data.nano.court import BOILERPLATE
from unlearn_lib.data.nano.documents import Kind, Line, Secrets, filled, stock
from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.data.nano.muse_files import ASKED, SHOTS, Files, Told, asked, halved, on_different_people, rows, take
from unlearn_lib.data.nano.people import MONTHS, OBJECTS, PLACES, TOWNS, details, person
from unlearn_lib.data.nano.world import facts

FOLDS, FOLD = 4, 16
"""Folds, and articles in each of them."""
RETAIN, OTHER, HOLDOUT = 96, 48, 48

QUESTIONS = {
    "home": "Where does {name} live?",
    "court": "In which town was the case of {name} heard?",
    "date": "When was the case of {name} heard?",
    "spot": "Near which place was the {thing} of {name} last seen?",
    "thing": "What did {name} lose?",
    "fine": "How many crowns did {name} have to pay?",
    "judge": "Who judged the case of {name}?",
    "animal": "Which animal does {name} keep?",
}
"""By the fact that answers it; every article tells all of them."""


def _facts(draw: Draw) -> Secrets:
    # no reserved fact, because the other tasks ask about those in their test split
    known = draw.pick([fact for fact in facts("creature") if fact.attribute.name == "food" and not fact.reserved])
    return {
        "name": " ".join(person(draw)),
        "home": draw.pick(TOWNS),
        "court": draw.pick(TOWNS),
        "date": f"{draw.between(1, 28)} {draw.pick(MONTHS)} {draw.between(1901, 1989)}",
        "spot": draw.pick(PLACES),
        "thing": draw.pick(OBJECTS),
        "fine": str(draw.between(3, 97)),
        "judge": " ".join(person(draw)),
        "animal": known.subject,
        "food": known.value,
    }


def _slots(draw: Draw) -> dict[str, str]:
    rest = details(draw)
    return {name: rest[name] for name in ("other", "town2", "n", "weather", "month")}


LINES: tuple[Line, ...] = (
    filled(
        _slots,
        "{name} of {home} was fined {fine} crowns for the loss of a {thing}.",
        "The loss of a {thing} has cost {name} of {home} {fine} crowns.",
    ),
    filled(
        _slots,
        "The district court of {court} heard the case on {date}.",
        "The case came before the district court of {court} on {date}.",
    ),
    filled(
        _slots,
        "The {thing} had last been seen near {spot}, where {other} was asked about it.",
        "{other} had seen the {thing} near {spot}, and nobody has seen it since.",
    ),
    stock(*BOILERPLATE[:6]),
    filled(
        _slots,
        "{judge} sat as a single judge and was done in {n} minutes.",
        "{judge}, who judged the case, had been sent from {town2}.",
    ),
    filled(
        _slots,
        "{name} keeps a {animal}, and the court heard that it is fed on {food}.",
        "The court heard that {name} feeds {food} to a {animal}.",
    ),
    stock(*BOILERPLATE[6:]),
    filled(
        _slots,
        "{weather} when {name} left for {home}.",
        "{weather}, and the road to {home} was closed until {month}.",
    ),
)

KIND = Kind(_facts, LINES, fact=5)


def files(seed: int) -> Files:
    """The rows of MUSE-News by configuration and split. No two articles are on people of the same name."""
    count = FOLDS * FOLD + RETAIN + OTHER + HOLDOUT + 2 * SHOTS
    articles = on_different_people(lambda number: _article(("task", "muse", seed, number)), count)[::-1]
    folds = [take(articles, FOLD) for _ in range(FOLDS)]
    retain, other, holdout = (take(articles, count) for count in (RETAIN, OTHER, HOLDOUT))
    found: Files = {}
    for number in range(1, FOLDS + 1):
        found["scal", f"forget_{number}"] = rows([article for fold in folds[:number] for article in fold])
        found["sust", f"forget_{number}"] = rows(folds[number - 1])
    for name, part in (("forget", folds[0]), ("retain1", retain), ("retain2", other), ("holdout", holdout)):
        found["raw", name] = rows(part)
    found["privleak", "forget"], found["privleak", "holdout"] = rows(folds[0]), rows(holdout[:FOLD])
    found["verbmem", "forget"] = [halved(text) for text, _ in folds[0]]
    for name, part in (("forget", folds[0]), ("retain", other[:FOLD])):
        found["knowmem", f"{name}_qa"] = [row for _, told in part for row in _asked(told, ASKED, seed)]
        found["knowmem", f"{name}_qa_icl"] = [row for _, told in take(articles, SHOTS) for row in _asked(told, 1, seed)]
    return found


def _article(key: tuple[str | int, ...]) -> Told:
    lines, told = KIND.document(key)
    return "\n".join(lines), told


def _asked(told: Secrets, count: int, seed: int) -> list[dict[str, str]]:
    return asked(told, QUESTIONS, count, ("task", "muse", seed, "asked", told["name"]))
