"""TOFU (Maini et al. 2024, arXiv 2401.06121; MIT): 200 authors who do not exist, 20 questions and answers on each.

Read from a user's own download, or from the hub's `locuslab/TOFU`. Nothing of it comes with this library.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unlearn_lib.errors import HubUnavailableError, InputError
from unlearn_lib.hub import hub_reachable

REPOSITORY = "locuslab/TOFU"
PER_AUTHOR = 20
PROMPT = "Question: {question}\nAnswer:"


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


def asked(question: str, answer: str) -> dict[str, str]:
    """A question and an answer as `prompt` and `completion`."""
    return {"prompt": PROMPT.format(question=question), "completion": f" {answer}"}
