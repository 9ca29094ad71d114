"""The benchmarks of unlearning by others: which there are, and how they become a `QuestionTask`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unlearn_lib.data import muse, tofu
from unlearn_lib.data.knowundo import knowundo_parts
from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.data.questions import QuestionTask
from unlearn_lib.errors import InputError, unknown

QUESTION_TASKS = ("tofu", "knowundo", "muse")
DEFAULT_SPLITS = {"tofu": tofu.DEFAULT_SPLIT, "muse": muse.DEFAULT_SPLIT}


def load_questions(
    name: str, source: str | Path, seed: int, sizes: Mapping[str, int] | None, split: str | None
) -> QuestionTask:
    """`load_task` for a name of `QUESTION_TASKS`; arguments and errors are described there."""
    split = DEFAULT_SPLITS.get(name) if split is None else split
    if name == "tofu":
        parts: dict[str, list[dict[str, Any]]] = tofu.tofu_parts(source, seed, split)
    elif name == "muse":
        parts = muse.muse_parts(source, seed, split)
    else:
        if split is not None:
            raise InputError(f"task {name!r} has no splits to choose from, and split={split!r} was given; leave it out")
        parts = knowundo_parts(source, seed)
    for part, size in (sizes or {}).items():
        if part not in parts:
            raise unknown(f"part of {name}", part, parts)
        if size < len(parts[part]):
            parts[part] = Draw("subset", name, part, seed).sample(parts[part], size)

    from datasets import Dataset

    return QuestionTask(name, str(source), seed, split, {part: Dataset.from_list(rows) for part, rows in parts.items()})
