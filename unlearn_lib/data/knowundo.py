"""The privacy half of KnowUnDo (Tian et al. 2024, arXiv 2407.01920; MIT): questions on people who do not exist.

What is private of a person (address, relatives, ...) is to be forgotten, what is public of the same person (works, prizes, ...) is to
be kept. Both are split in two: a method is given the training questions, and is measured on the validation ones. The original model
learnt all four.

Read from a user's own download; generated people stand in for it (`unlearn_lib.data.nano.privacy`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unlearn_lib.data.nano import privacy
from unlearn_lib.data.questions import asked, text_of
from unlearn_lib.errors import InputError

REPOSITORY = "zjunlp/KnowUnDo"
FILES = {
    "forget": "unlearn_train",
    "retain": "retention_train",
    "forget_val": "unlearn_val",
    "retain_val": "retention_val",
}
"""The file of every part, without its ending."""


def knowundo_parts(source: str | Path, seed: int) -> dict[str, list[dict[str, Any]]]:
    """The parts `forget`, `retain`, `forget_val` and `retain_val`, each as rows of `prompt` and `completion`.

    Args:
        source: "nano" or a folder that holds unlearn_train.json, unlearn_val.json, retention_train.json and retention_val.json.
        seed: Which people are generated ("nano").

    Raises:
        InputError: "hub"; there is no such folder; a file is missing or not one of KnowUnDo's.
    """
    if source == "hub":
        raise InputError(
            "task 'knowundo' is not read from the hub, because this library does not know how its files are laid out there; download "
            f"the privacy files of {REPOSITORY} and give their folder as source, or use the embedded substitute "
            "load_task('knowundo', source='nano')"
        )
    files = privacy.files(seed) if source == "nano" else {name: _read(Path(source), name) for name in FILES.values()}
    return {
        part: [_asked(row, f"{name}.json, question {number}") for number, row in enumerate(files[name], 1)]
        for part, name in FILES.items()
    }


def _asked(row: dict[str, Any], where: str) -> dict[str, str]:
    return asked(text_of(row, "text", where), text_of(row, "labels", where))


def _read(folder: Path, name: str) -> list[dict[str, Any]]:
    """The rows of one of KnowUnDo's files, which is one JSON list."""
    if not folder.is_dir():
        raise InputError(f"source must be 'nano' or a folder with your download of {REPOSITORY}; there is no folder {folder}")
    path = folder / f"{name}.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{folder} holds no {path.name}; it should hold the privacy files of {REPOSITORY}") from error
    except ValueError as error:
        raise InputError(f"{path} is not one of KnowUnDo's files: it should be one JSON list ({error})") from error
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path} is not one of KnowUnDo's files: it should be one JSON list of questions")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or "text" not in row or "labels" not in row:
            raise InputError(f"{path}, question {number}, lacks 'text' (the question) or 'labels' (the answer) of {REPOSITORY}")
    return rows
