"""`lambada` in the small: a passage whose last word can only be known from what was named sentences earlier.

The subject of a fact is named at the beginning, everyday detail follows, and the passage ends with the fact's value. Same column
as the hub's LAMBADA: text.
"""

from __future__ import annotations

from typing import Any

from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.data.nano.people import details
from unlearn_lib.data.nano.world import Fact, facts

FILLERS = (
    "{weather} in {town}.",
    "They had come from {town} on {day} {month}.",
    "{other} was not at {place} that day.",
    "It had cost {n} crowns in {town}.",
    "The road from {town2} was {n} miles long.",
    "People still spoke of the fire of {year}.",
)
STARTS = {
    "food": ("{first} {surname} had a {s} in a basket.", "A {s} sat by the door of {first} {surname}."),
    "colour": ("{first} {surname} showed a piece of {s}.", "In the bag of {first} {surname} was some {s}."),
    "use": ("{first} {surname} had a load of {s}.", "A cart of {s} came for {first} {surname}."),
}
ENDS = {
    "food": ("At {place} {first} gave it a bowl of", "It was hungry, so {other} went to look for"),
    "colour": ("In the sun everybody could see that it was", "{other} held it to the lamp, and it shone"),
    "use": ("{other} the smith would turn it into", "By {month} it would be"),
}


def _askable(fact: Fact) -> bool:
    return fact.attribute.name in STARTS and " " not in fact.value


def record(draw: Draw, *, reserved: bool) -> dict[str, Any]:
    """One passage; with `reserved` it ends with a fact that no training passage ends with."""
    kind = draw.pick(("creature", "stone"))
    fact = draw.pick([f for f in facts(kind) if _askable(f) and f.reserved == reserved])
    slots = details(draw) | {"s": fact.subject}
    middle = draw.sample(FILLERS, 2)
    text = " ".join([draw.pick(STARTS[fact.attribute.name]), *middle, draw.pick(ENDS[fact.attribute.name]), fact.value])
    return {"text": text.format(**slots)}
