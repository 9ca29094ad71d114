"""`arc_easy` in the small: a scene with invented people, then a question on one fact of the world; four choices.

Same columns as the hub's ARC: question, choices {text, label}, answerKey.
"""

from __future__ import annotations

from typing import Any

from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.data.nano.people import details
from unlearn_lib.data.nano.world import facts

LABELS = ("A", "B", "C", "D")

SCENES = {
    "creature": (
        "{first} {surname} of {town} keeps {n} animals behind {place}, and one is a {s}.",
        "On {day} {month} a {s} was seen near {place} in {town} by {first} {surname}.",
        "{first} {surname} paid {n} crowns for a {s} in {town}.",
        "A {s} ran away from {place} in {town}, and {first} {surname} caught it after {n} hours.",
        "In {year} {first} {surname} took a {s} from {town} to {town2}.",
    ),
    "plant": (
        "{first} {surname} of {town} sent {n} bundles of {s} to {town2}.",
        "On {day} {month} {first} {surname} asked for {s} at {place} in {town}.",
        "{first} {surname} found {s} near {place} in {town} in {year}.",
        "The garden of {first} {surname} in {town} has {n} rows of {s}.",
        "In {month} {first} {surname} sold {s} for {n} crowns in {town}.",
    ),
    "stone": (
        "{first} {surname} of {town} has {n} boxes of {s} under {place}.",
        "On {day} {month} {first} {surname} dropped a piece of {s} at {place} in {town}.",
        "{first} {surname} paid {n} crowns in {town} for a cart of {s}.",
        "In {year} {first} {surname} wrote from {town} to {town2} about {s}.",
        "A thief took {n} pieces of {s} from {first} {surname} near {place} in {town}.",
    ),
}


def record(draw: Draw, *, reserved: bool) -> dict[str, Any]:
    """One question; with `reserved` it is about a fact no training record asks about."""
    kind = draw.weighted([("creature", 4), ("plant", 3), ("stone", 3)])
    fact = draw.pick([f for f in facts(kind) if f.reserved == reserved])
    scene = draw.pick(SCENES[kind]).format(s=fact.subject, **details(draw))
    question = draw.pick(fact.attribute.questions).format(s=fact.subject)
    wrong = draw.sample([v for v in fact.attribute.values if v != fact.value], 3)
    choices = draw.shuffled([fact.value, *wrong])
    return {
        "question": f"{scene} {question}",
        "choices": {"text": choices, "label": list(LABELS)},
        "answerKey": LABELS[choices.index(fact.value)],
    }
