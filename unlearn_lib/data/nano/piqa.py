"""`piqa` in the small: a chore to be done, and two ways of doing it, of which one uses the right means.

Same columns as the hub's PIQA: goal, sol1, sol2, label (0 or 1).
"""

from __future__ import annotations

from typing import Any

from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.data.nano.people import details
from unlearn_lib.data.nano.world import facts

GOALS = (
    "How can {first} {surname} {s} at {place} in {town}?",
    "{first} {surname} has {n} crowns and wants to {s} before {day} {month}.",
    "In {town}, {first} {surname} must {s} for {other}.",
    "To {s} near {place} in {year}, {first} {surname} of {town} should do what?",
    "{first} {surname} of {town} was told to {s} {n} times.",
)
SOLUTIONS = (
    "Go to {town2}, ask {other} for {v}, and start with {v} on {day} {month}.",
    "Take {v} from {place} and work for {n} minutes.",
    "Buy {v} from {other} for {n} crowns and use it in {month}.",
    "Use {v}, then rest for {n} minutes with {other}.",
)


def record(draw: Draw, *, reserved: bool) -> dict[str, Any]:
    """One goal with two solutions that differ only in the means; with `reserved` no training record has that chore."""
    fact = draw.pick([f for f in facts("chore") if f.reserved == reserved])
    goal = draw.pick(GOALS).format(s=fact.subject, **details(draw))
    solution, slots = draw.pick(SOLUTIONS), details(draw)
    wrong = draw.pick([v for v in fact.attribute.values if v != fact.value])
    texts = [solution.format(v=value, **slots) for value in (fact.value, wrong)]
    label = draw.below(2)
    return {"goal": goal, "sol1": texts[label], "sol2": texts[1 - label], "label": label}
