"""What the generated stand-ins of both data sets of MUSE share: texts are taken from a stock, halved, and asked about."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from unlearn_lib.data.nano.documents import Secrets
from unlearn_lib.data.nano.draw import Draw

ASKED, SHOTS = 3, 3
"""Questions on each text, and answered questions that stand in front of a question."""

Told = tuple[str, Secrets]
"""A text and the facts that it tells."""
Files = dict[tuple[str, str], list[dict[str, Any]]]
"""Rows by configuration and split."""


def on_different_people(made: Callable[[int], Told], count: int, taken: Collection[str] = ()) -> list[Told]:
    """The first so many texts that `made` gives for 0, 1, 2, ... on people of different names, none of which is taken."""
    found: dict[str, Told] = {}
    number = 0
    while len(found) < count:
        text, facts = made(number)
        if facts["name"] not in taken:
            found.setdefault(facts["name"], (text, facts))
        number += 1
    return list(found.values())


def take(texts: list[Told], count: int) -> list[Told]:
    """The last so many, which are in the stock no more."""
    return [texts.pop() for _ in range(count)]


def rows(texts: list[Told]) -> list[dict[str, Any]]:
    """Rows with the column `text`."""
    return [{"text": text} for text, _ in texts]


def halved(text: str) -> dict[str, str]:
    """A text's beginning, and how it goes on."""
    words = text.split(" ")
    half = len(words) // 2
    return {"prompt": " ".join(words[:half]), "gt": " " + " ".join(words[half:])}


def asked(told: Secrets, questions: Mapping[str, str], count: int, key: tuple[str | int, ...]) -> list[dict[str, str]]:
    """So many questions on the facts of a text, drawn by its key."""
    return [
        {"question": questions[topic].format(**told), "answer": told[topic]}
        for topic in Draw(*key).sample(tuple(questions), count)
    ]
