"""TOFU (Maini et al. 2024, arXiv 2401.06121; MIT): 200 authors who do not exist, 20 questions and answers on each.

Read from a user's own download, or from the hub's `locuslab/TOFU`. Nothing of it comes with this library; generated authors stand in
for it (`unlearn_lib.data.nano.authors`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from unlearn_lib.data.nano import authors as nano_authors
from unlearn_lib.data.questions import asked, completion, text_of
from unlearn_lib.data.rows import shown
from unlearn_lib.errors import HubUnavailableError, InputError, unknown
from unlearn_lib.hub import hub_reachable

REPOSITORY = "locuslab/TOFU"
PER_AUTHOR = 20
SPLITS = {"forget01": 1, "forget05": 5, "forget10": 10}
"""How many percent of the authors each split forgets."""
DEFAULT_SPLIT = "forget10"

Read = Callable[[str, tuple[str, ...]], list[dict[str, Any]]]
"""Gives the rows of one of TOFU's files, which have these columns."""


def tofu_folder(source: str | Path) -> Path:
    """The folder with TOFU's files.

    Args:
        source: A folder, or "hub" for the hub's cache or the hub.

    Raises:
        InputError: There is no such folder.
        HubUnavailableError: "hub", and neither the cache nor the hub has it.
    """
    if source != "hub":
        if not Path(source).is_dir():
            raise InputError(f"there is no folder {source}; give the folder with your download of {REPOSITORY}, or 'hub'")
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(REPOSITORY, repo_type="dataset", allow_patterns=["*.json"], local_files_only=not hub_reachable())
        )
    except OSError as error:
        raise HubUnavailableError(
            f"{REPOSITORY} is not here: the hub cannot be reached and the local cache does not hold it; connect once, or give the "
            "folder with your own download"
        ) from error


def read_tofu(
    source: str | Path, name: str = "full", columns: tuple[str, ...] = ("question", "answer")
) -> list[dict[str, Any]]:
    """The rows of one of TOFU's files, `NAME.json`, one JSON object a line.

    Raises:
        InputError: The file is missing, or not one of TOFU's.
        HubUnavailableError: See `tofu_folder`.
    """
    path = tofu_folder(source) / f"{name}.json"
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise InputError(f"{path.parent} holds no {path.name}; it should hold the files of {REPOSITORY}") from error
    except ValueError as error:
        raise InputError(f"{path} is not one of TOFU's files: it should have one JSON object a line") from error
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or any(column not in row for column in columns):
            raise InputError(f"{path}, line {number}, lacks one of the columns {', '.join(columns)} of {REPOSITORY}")
    return rows


def authors(rows: list[dict[str, Any]]) -> list[list[dict[str, str]]]:
    """The authors of `full.json`, each as 20 rows of `prompt` and `completion`, in the file's order.

    Raises:
        InputError: The number of rows is no multiple of 20.
    """
    if len(rows) % PER_AUTHOR:
        raise InputError(f"TOFU has {PER_AUTHOR} questions on each author, and {len(rows)} rows are no multiple of that")
    pairs = [asked(row["question"], row["answer"]) for row in rows]
    return [pairs[i : i + PER_AUTHOR] for i in range(0, len(pairs), PER_AUTHOR)]


def tofu_parts(source: str | Path, seed: int, split: str | None) -> dict[str, list[dict[str, Any]]]:
    """The parts of a split.

    `forget`: the questions on the authors to be forgotten. `retain`: those on all others, without wrong answers. `retain_asked`: the
    questions on some of these others, with wrong answers, on which the utility is measured. `real_authors` and `world_facts`: what
    should not be harmed. `holdout`, of "nano" alone: questions on authors who are in no split.

    Args:
        source: "nano", "hub" or a folder, see `tofu_folder`.
        seed: Which authors are generated ("nano").
        split: A name of `SPLITS`; by default `DEFAULT_SPLIT`.

    Raises:
        InputError: An unknown split; a file that is missing or not one of TOFU's.
        HubUnavailableError: See `tofu_folder`.
    """
    split = DEFAULT_SPLIT if split is None else split
    if split not in SPLITS:
        raise unknown("split of TOFU", split, SPLITS)
    percent = SPLITS[split]
    read = _reader(source, seed, percent)
    parts = {
        "forget": _measured(read, f"{split}_perturbed", "paraphrased_answer"),
        "retain": _learnt(read, f"retain{100 - percent}"),
        "retain_asked": _measured(read, "retain_perturbed", "paraphrased_answer"),
        # TOFU's facts have no paraphrase; its authors' code takes the answer itself
        "real_authors": _measured(read, "real_authors_perturbed", "answer"),
        "world_facts": _measured(read, "world_facts_perturbed", "answer"),
    }
    return parts | ({"holdout": _measured(read, "holdout_perturbed", "paraphrased_answer")} if source == "nano" else {})


def _reader(source: str | Path, seed: int, percent: int) -> Read:
    if source != "nano":
        return partial(read_tofu, tofu_folder(source))
    made = nano_authors.files(seed, percent)
    return lambda name, columns: made[name]


def _learnt(read: Read, name: str) -> list[dict[str, Any]]:
    """The rows of a file that is trained on."""
    rows = _numbered(read(name, ("question", "answer")), name)
    return [asked(text_of(row, "question", where), text_of(row, "answer", where)) for row, where in rows]


def _measured(read: Read, name: str, paraphrase: str) -> list[dict[str, Any]]:
    """The rows of a file with wrong answers."""
    columns = ("question", "answer", paraphrase, "perturbed_answer")
    found = []
    for row, where in _numbered(read(name, columns), name):
        wrong = row["perturbed_answer"]
        if not isinstance(wrong, list) or not wrong or not all(isinstance(one, str) and one.strip() for one in wrong):
            raise InputError(
                f"{where}: 'perturbed_answer' must be a list of wrong answers, each a text that is not empty, but it is {shown(wrong)}; "
                "mend or remove the row"
            )
        question, answer, other = (text_of(row, column, where) for column in ("question", "answer", paraphrase))
        found.append({**asked(question, answer), "paraphrase": completion(other), "wrong": [completion(one) for one in wrong]})
    return found


def _numbered(rows: list[dict[str, Any]], name: str) -> list[tuple[dict[str, Any], str]]:
    if not rows:
        raise InputError(f"{name}.json holds no questions; take the file from {REPOSITORY} again")
    return [(row, f"{name}.json, question {number}") for number, row in enumerate(rows, 1)]
