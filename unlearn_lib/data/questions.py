"""Data sets in several named parts, most of them questions and answers, as TOFU, KnowUnDo and MUSE are.

`Task` does not fit them: it has one set of training texts, and accuracy by choices. These have training texts of two kinds, those to
forget and those to retain, several sets to measure on, and no choices; so they have a form of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from unlearn_lib.data.rows import shown
from unlearn_lib.errors import InputError, unknown

PROMPT = "Question: {question}\nAnswer:"


@dataclass(frozen=True)
class QuestionTask:
    """Questions, answers and texts in named parts; `task["forget"]` is a part.

    Attributes:
        name, source, seed: As given to `load_task`.
        split: Which part of the data is to be forgotten, such as "forget10" of TOFU or "news" of MUSE; None where there is one way to
            split.
        parts: By name a `datasets.Dataset` with the columns `prompt` and `completion`, or of MUSE's texts with `text`. Parts that TOFU
            measures on also have `paraphrase`, another true answer, and `wrong`, a list of wrong ones; both are completions of the
            prompt, too.
    """

    name: str
    source: str
    seed: int
    split: str | None
    parts: Mapping[str, Any]

    def __getitem__(self, part: str) -> Any:
        if part not in self.parts:
            raise unknown(f"part of {self.name}", part, self.parts)
        return self.parts[part]

    def sha256(self) -> str:
        """A hash of all parts, in their order."""
        return hash_of(self.parts.values())


def hash_of(parts: Iterable[Any]) -> str:
    """The SHA-256 of the rows of data sets, whatever the order of their columns."""
    digest = hashlib.sha256()
    for part in parts:
        for row in part:
            digest.update(repr(sorted(row.items())).encode())
    return digest.hexdigest()


def asked(question: str, answer: str) -> dict[str, str]:
    """A question and an answer as `prompt` and `completion`."""
    return {"prompt": PROMPT.format(question=question), "completion": completion(answer)}


def completion(answer: str) -> str:
    """An answer as it follows the prompt."""
    return f" {answer}"


def text_of(row: Mapping[str, Any], column: str, where: str) -> str:
    """The text in a column of a row.

    Raises:
        InputError: It is no string, or nothing but blanks.
    """
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise InputError(
            f"{where}: {column!r} must be a text that is not empty, but it is {shown(value)!r}; mend or remove the row"
        )
    return value


def question_rows(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows of which each has a prompt and a completion.

    Raises:
        InputError: There are none, or one lacks a column.
    """
    found = list(rows)
    if not found:
        raise InputError("there are no questions to measure; give at least one")
    for number, row in enumerate(found):
        if not isinstance(row.get("prompt"), str) or not isinstance(row.get("completion"), str):
            raise InputError(f"question {number} has no 'prompt' or no 'completion'; give both, as strings")
    return found
