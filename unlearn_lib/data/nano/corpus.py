"""The pre-training corpus: endless short documents about the world, its people and its courts.

It states all facts, reserved ones included, and holds records of the same kinds as the tasks, drawn under keys of its own: a
base model knows the style of the tasks, as a large language model does, but not their records. (Without them fine-tuning has
to learn the style first, and unlearns much of the world on the way.)
"""

from __future__ import annotations

from collections.abc import Iterator

from unlearn_lib.data.formats import FORMATS
from unlearn_lib.data.nano import arc, lambada, mathqa, piqa
from unlearn_lib.data.nano.court import judgment
from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.data.nano.people import details
from unlearn_lib.data.nano.world import KINDS, Fact, facts, facts_by_subject

GOSSIP = (
    "{first} {surname} came to {town} on {day} {month} {year}.",
    "{weather} when {first} left {place}.",
    "{first} {surname} sold a {object} for {n} crowns near {place} in {town}.",
    "{other} wrote to {first} {surname} in {town2}.",
    "In {year} there were {n} houses in {town}.",
    "{first} {surname} works at {place} with {other}.",
    "{n} people from {town} went to {town2} in {month}.",
)


def _sentence(draw: Draw, fact: Fact) -> str:
    text = draw.pick(fact.attribute.statements).format(s=fact.subject, v=fact.value)
    return text[0].upper() + text[1:] + "."


def _entry(draw: Draw) -> str:
    group = draw.pick(tuple(facts_by_subject(draw.pick(tuple(KINDS))).values()))
    return " ".join(_sentence(draw, fact) for fact in draw.shuffled(group))


def _chores(draw: Draw) -> str:
    return " ".join(_sentence(draw, draw.pick(facts("chore"))) for _ in range(3))


def _quiz(draw: Draw) -> str:
    lines = []
    for _ in range(3):
        fact = draw.pick(facts(draw.weighted([("creature", 3.0), ("plant", 2.0), ("stone", 2.0), ("chore", 3.0)])))
        lines.append(f"Question: {draw.pick(fact.attribute.quiz).format(s=fact.subject)}\nAnswer: {fact.value}")
    return "\n".join(lines)


def _gossip(draw: Draw) -> str:
    slots = details(draw)
    return " ".join(text.format(**slots) for text in draw.sample(GOSSIP, 3))


def _task_record(draw: Draw) -> str:
    name, module = draw.weighted(
        [(("arc_easy", arc), 4.0), (("piqa", piqa), 4.0), (("lambada", lambada), 4.0), (("mathqa", mathqa), 2.0)]
    )
    text = FORMATS[name].text(module.record(draw, reserved=draw.below(3) == 0))
    assert text is not None
    return text


def _sums(draw: Draw) -> str:
    parts = []
    for _ in range(5):
        a, b, c = draw.between(2, 60), draw.between(2, 20), draw.between(2, 6)
        parts.append(draw.pick((f"{a} and {b} make {a + b}.", f"{a + b} less {b} is {a}.", f"{c} times {b} is {b * c}.")))
    return " ".join(parts)


DOCUMENTS = [
    (_entry, 24.0), (_quiz, 14.0), (_chores, 10.0), (_task_record, 34.0), (_gossip, 5.0), (_sums, 3.0), (judgment, 3.0),
]  # fmt: skip


def documents(seed: int) -> Iterator[str]:
    """An endless stream of documents; the same for the same seed on every machine."""
    number = 0
    while True:
        draw = Draw("corpus", seed, number)
        yield draw.weighted(DOCUMENTS)(draw)
        number += 1
