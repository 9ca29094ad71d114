"""Which texts the benchmark in real.py teaches, forgets, keeps and holds out: people of TOFU or of KnowUnDo, drawn by a seed.

Of TOFU, everything on an author is to be forgotten. KnowUnDo's privacy half (arXiv 2407.01920) has for every invented person private
facts, which are to be forgotten, and public ones, which are to stay: those of the person who is forgotten are shown to no method, and
are the set `same`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from unlearn_lib.data.tofu import authors, read_tofu
from unlearn_lib.errors import InputError
from unlearn_lib.training.config import TrainingConfig

Rows = list[dict[str, str]]
SPLITS = {"forget01": 1, "forget05": 5, "forget10": 10}
"""TOFU's requests in percent of its authors: always the last ones of its file."""
NAME = re.compile(r"[A-Z][\w'’-]+(?: (?:Al )?[A-Z][\w'’-]+)+")
ASKED_OFTEN = 4
"""A name is a person's in KnowUnDo where at least so many private questions have it."""


@dataclass(frozen=True)
class Setting:
    """Which model learns of how many people, and how.

    `task` is "tofu" or "knowundo". With a `split` of TOFU all of its authors are learnt, and those of the split are forgotten; nobody is
    held out then, since there is nobody else. Otherwise `authors` people are drawn, of whom one is forgotten, and `unseen` others are
    never learnt. `outside` of the retained people are shown to no method.
    """

    model: str = "smollm2-135m"
    authors: int = 10
    outside: int = 2
    unseen: int = 2
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=5, learning_rate=1e-4, batch_size=4))
    task: str = "tofu"
    split: str = ""

    def told(self) -> dict[str, Any]:
        """Its fields for a record. Records from before there were other tasks name neither task nor split, which are left out as long as
        they are the first ones."""
        fields = asdict(self)
        if self.task == "tofu" and not self.split:
            del fields["task"], fields["split"]
        return fields

    @property
    def retraining(self) -> float:
        """What retraining without the forgotten author of TOFU costs, in gradients of single texts."""
        return self.training.epochs * 20 * (self.authors - 1)


@dataclass(frozen=True)
class Person:
    """What there is to learn of one person: what is forgotten on request, and what stays."""

    private: Rows
    public: Rows

    @property
    def everything(self) -> Rows:
        """All of it."""
        return [*self.private, *self.public]


def learnt(setting: Setting, seed: int, source: str | Path) -> dict[str, Rows]:
    """The questions and answers by set: `forget`, `used`, `retain` (learnt, outside), `holdout` (never learnt), and where the forgotten
    person has public facts, `same`; a set without texts is left out.

    Raises:
        InputError: An unknown task or split; too few people.
    """
    everyone = people(setting.task, source)
    if setting.split:
        if setting.task != "tofu" or setting.split not in SPLITS:
            raise InputError(f"unknown split {setting.split!r}; TOFU has {', '.join(SPLITS)}")
        first = len(everyone) - len(everyone) * SPLITS[setting.split] // 100
        gone, rest, unseen = everyone[first:], everyone[:first], []
        rest = [rest[number] for number in _order(len(rest), seed)]
    else:
        if setting.authors + setting.unseen > len(everyone):
            raise InputError(f"{setting.authors} and {setting.unseen} people are asked for, and there are {len(everyone)}")
        order = [everyone[number] for number in _order(len(everyone), seed)]
        gone, rest = order[:1], order[1 : setting.authors]
        unseen = order[setting.authors : setting.authors + setting.unseen]
    if len(rest) <= setting.outside or not gone:
        raise InputError(f"{len(rest)} people are to be retained, of whom {setting.outside} are outside; take more")
    found = {
        "forget": [row for person in gone for row in person.private],
        "used": [row for person in rest[: -setting.outside] for row in person.everything],
        "retain": [row for person in rest[-setting.outside :] for row in person.everything],
        "holdout": [row for person in unseen for row in person.everything],
        "same": [row for person in gone for row in person.public],
    }
    return {name: rows for name, rows in found.items() if rows}


def people(task: str, source: str | Path) -> list[Person]:
    """Everybody of a task, in the order of its files.

    Raises:
        InputError: An unknown task; files that are not its own.
    """
    if task == "tofu":
        return [Person(rows, []) for rows in authors(read_tofu(source))]
    if task != "knowundo":
        raise InputError(f"unknown task {task!r}; choose tofu or knowundo")
    from unlearn_lib.data.knowundo import knowundo_parts

    parts = knowundo_parts(source, 0)
    names = Counter(name for row in parts["forget"] for name in set(_names(row)))
    found = {name: Person([], []) for name, number in names.items() if number >= ASKED_OFTEN}
    for part in ("forget", "retain"):
        for row in parts[part]:
            own = next((name for name in found if name in row["prompt"]), None)
            if own is not None:
                (found[own].private if part == "forget" else found[own].public).append(row)
    return [person for person in found.values() if person.public]


def _names(row: Mapping[str, str]) -> Sequence[str]:
    return [re.sub(r"['’]s?$", "", name) for name in NAME.findall(row["prompt"].removeprefix("Question: "))]


def _order(number: int, seed: int) -> list[int]:
    return torch.randperm(number, generator=torch.Generator().manual_seed(seed)).tolist()
