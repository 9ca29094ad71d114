"""From the columns of a public data set to training texts and test questions; the embedded data have the same columns.

Prompts are those of EleutherAI's evaluation harness (arc, piqa, mathqa: `Question: ...\\nAnswer:` and a blank before the choice).
A question is `{"prompt", "choices", "label"}`; LAMBADA's is `{"prompt", "completion"}`, the completion being the last word.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from unlearn_lib.errors import InputError

Row = Mapping[str, Any]
OPTION = re.compile(r"([a-e]) \) (.*?)(?= , [a-e] \) |$)")


@dataclass(frozen=True)
class Format:
    """How one data set is read.

    `columns` are those a row must have; `question` turns a row into a test question (None: skip the row); `accuracy` is
    "choice" (lowest summed NLL of the choices) or "last_word" (greedy decoding gives the completion exactly).
    """

    columns: tuple[str, ...]
    question: Callable[[Row], dict[str, Any] | None]
    accuracy: str

    def text(self, row: Row) -> str | None:
        """The training text of a row: the question with its right answer."""
        question = self.question(row)
        if question is None:
            return None
        answer = question["completion"] if "completion" in question else question["choices"][question["label"]]
        return str(question["prompt"] + answer)


def _choice(question: str, choices: list[str], label: int) -> dict[str, Any]:
    return {"prompt": f"Question: {question}\nAnswer:", "choices": [" " + choice for choice in choices], "label": label}


def _arc(row: Row) -> dict[str, Any] | None:
    choices = row["choices"]
    if len(choices["text"]) != 4:  # a handful of ARC's questions have 3 or 5; the field drops them
        return None
    return _choice(row["question"], choices["text"], choices["label"].index(row["answerKey"]))


def _piqa(row: Row) -> dict[str, Any] | None:
    return _choice(row["goal"], [row["sol1"], row["sol2"]], int(row["label"])) if int(row["label"]) in (0, 1) else None


def _mathqa(row: Row) -> dict[str, Any] | None:
    options = dict(OPTION.findall(row["options"]))
    if row["correct"] not in options:
        raise InputError(f"MathQA options {row['options']!r} do not hold the correct letter {row['correct']!r}")
    return _choice(row["Problem"], list(options.values()), list(options).index(row["correct"]))


def _lambada(row: Row) -> dict[str, Any] | None:
    prompt, _, word = row["text"].strip().rpartition(" ")
    return {"prompt": prompt, "completion": " " + word} if prompt else None


FORMATS: dict[str, Format] = {
    "arc_easy": Format(("question", "choices", "answerKey"), _arc, "choice"),
    "piqa": Format(("goal", "sol1", "sol2", "label"), _piqa, "choice"),
    "mathqa": Format(("Problem", "options", "correct"), _mathqa, "choice"),
    "lambada": Format(("text",), _lambada, "last_word"),
}
