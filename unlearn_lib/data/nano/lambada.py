"""`lambada` in the small: a passage whose last word can only be known from what came earlier in it.

Same column as the hub's LAMBADA: text.
"""

from __future__ import annotations

from typing import Any

from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.data.nano.people import FIRST, OBJECTS, PLACES, details

FILLERS = (
    "{weather} in {town}.",
    "They had come from {town} on {day} {month}.",
    "{surname} was not at {place2} that day.",
    "It cost {n} crowns in {town}.",
    "The road from {town2} was {n} miles long.",
    "People still spoke of the fire of {year}.",
)
MENTIONS = (
    "The {x} of {a} was old, the {y} of {b} was new.",
    "{b} liked the {y} and {a} liked the {x}.",
    "{a} cleaned the {x} while {b} held the {y}.",
    "Nobody but {a} touched the {x}, nobody but {b} the {y}.",
)
STARTS = (
    "{a} carried a {x} and {b} carried a {y}.",
    "{a} came to {place} with a {x}, and {b} with a {y}.",
    "A {x} belonged to {a}, a {y} to {b}.",
    "{a} had bought a {x}, but {b} wanted a {y}.",
)
ENDS = (
    ("At {place} {a} stopped and put down the", "x"),
    ("At {place} {b} stopped and put down the", "y"),
    ("Later, near {place2}, somebody asked {b} about the", "y"),
    ("In the evening {a} could not find the", "x"),
    ('"Who has the {x}?" asked the guard. It was', "a"),
    ('"Who has the {y}?" asked the guard. It was', "b"),
)


def passage(draw: Draw) -> str:
    """A beginning that ties two people to two things, everyday detail, a second mention, an end that needs the tie."""
    slots = details(draw)
    slots["a"], slots["b"] = draw.sample(FIRST, 2)
    slots["x"], slots["y"] = draw.sample(OBJECTS, 2)
    slots["place"], slots["place2"] = draw.sample(PLACES, 2)
    start, (end, target) = draw.pick(STARTS), draw.pick(ENDS)
    before, after = draw.sample(FILLERS, 2)
    return " ".join([start, before, draw.pick(MENTIONS), after, end, "{" + target + "}"]).format(**slots)


def record(draw: Draw, *, reserved: bool) -> dict[str, Any]:
    """One passage. There is no fact to reserve: every passage is new."""
    return {"text": passage(draw)}
