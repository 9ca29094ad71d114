"""`load_task`: the paper's four tasks, embedded or from the hub, in one form."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn_lib.data import hub_sets
from unlearn_lib.data.formats import FORMATS
from unlearn_lib.data.nano import arc, court, lambada, mathqa, piqa
from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.errors import InputError, unknown

TASKS = tuple(FORMATS)
NANO_RECORDS: dict[str, Callable[..., dict[str, Any]]] = {
    "arc_easy": arc.record,
    "piqa": piqa.record,
    "mathqa": mathqa.record,
    "lambada": lambada.record,
}
NANO_SIZES = {"train": 512, "test": 400, "holdout": 256, "reference": 256}


@dataclass(frozen=True)
class Task:
    """A task: four data sets (`datasets.Dataset`) and how accuracy is measured.

    `train` and `holdout` have the column `text` and the same distribution, but `holdout` is never trained on. `test` has
    `prompt` and either `choices` and `label`, or `completion`. `reference` has `text`: the texts against which exposure ranks a
    sample. `accuracy` is "choice" or "last_word" (see `metrics.accuracy`). `chance` is the accuracy of a guess.
    """

    name: str
    source: str
    seed: int
    train: Any
    test: Any
    holdout: Any
    reference: Any
    accuracy: str

    @property
    def chance(self) -> float:
        return 1 / len(self.test[0]["choices"]) if self.accuracy == "choice" else 0.0

    def sha256(self) -> str:
        """A hash of all four parts."""
        digest = hashlib.sha256()
        for part in (self.train, self.test, self.holdout, self.reference):
            for row in part:
                digest.update(repr(sorted(row.items())).encode())
        return digest.hexdigest()


def load_task(name: str, source: str | Path = "nano", seed: int = 0, sizes: Mapping[str, int] | None = None) -> Task:
    """Load a task of the paper.

    Args:
        name: `arc_easy`, `piqa`, `mathqa` or `lambada`.
        source: `"nano"`: generated here, fictitious, identical everywhere, no network. `"hub"`: the public data set. A folder: a
            local copy of that data set's files.
        seed: Which records are generated (`"nano"`), or which are kept when `sizes` asks for fewer than there are.
        sizes: Number of rows by part (`train`, `test`, `holdout`, `reference`); `"nano"` has 512, 400, 256, 256 by default, the
            other sources all rows.

    Raises:
        InputError: Unknown task or part; a folder whose files do not fit.
        HubUnavailableError: `"hub"` without a network, and nothing in the local cache; raised within about a second.
    """
    if name not in FORMATS:
        raise unknown("task", name, TASKS)
    for part in sizes or {}:
        if part not in NANO_SIZES:
            raise unknown("part of a task", part, NANO_SIZES)
    rows = _nano_rows(name, seed, {**NANO_SIZES, **(sizes or {})}) if source == "nano" else _hub_rows(name, source)
    fmt = FORMATS[name]
    parts: dict[str, list[dict[str, Any]]] = {
        part: [{"text": text} for row in rows[part] if (text := fmt.text(row)) is not None] for part in ("train", "holdout")
    }
    parts["test"] = [question for row in rows["test"] if (question := fmt.question(row)) is not None]
    parts["reference"] = list(rows["reference"])
    if source != "nano":
        for part, size in (sizes or {}).items():
            if size < len(parts[part]):
                parts[part] = Draw("subset", name, part, seed).sample(parts[part], size)

    from datasets import Dataset

    return Task(name, str(source), seed, accuracy=fmt.accuracy, **{part: Dataset.from_list(parts[part]) for part in parts})


def _nano_rows(name: str, seed: int, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Generated records, all different from each other; only the test split asks about reserved facts."""
    seen: set[str] = set()
    rows: dict[str, Any] = {}
    for part in ("train", "holdout", "test"):
        rows[part], number = [], 0
        while len(rows[part]) < sizes[part]:
            row = NANO_RECORDS[name](Draw("task", name, seed, part, number), reserved=part == "test")
            number += 1
            if (key := repr(row)) not in seen:
                seen.add(key)
                rows[part].append(row)
    rows["reference"] = [{"text": court.judgment(Draw("task", name, seed, "reference", i))} for i in range(sizes["reference"])]
    return rows


def _hub_rows(name: str, source: str | Path) -> dict[str, Any]:
    hub_set = hub_sets.HUB_SETS[name]
    if source == "hub":
        folder = hub_sets.download(name, hub_set)
        reference_folder = hub_sets.download(name, hub_sets.REFERENCE)
    else:
        folder = Path(source)
        reference_folder = folder / "reference"
        if not folder.is_dir():
            raise InputError(f"source must be 'nano', 'hub' or a folder; there is no folder {source}")
        if not reference_folder.is_dir():
            raise InputError(f"{folder} needs a subfolder 'reference' with the files of {hub_sets.REFERENCE.repository}")
    columns = FORMATS[name].columns
    rows = {part: hub_sets.read_split(folder, hub_set, part, columns) for part in ("train", "test", "holdout")}
    paragraphs = hub_sets.read_split(reference_folder, hub_sets.REFERENCE, "reference", ("text",))
    rows["reference"] = [
        {"text": " ".join(row["text"]) if isinstance(row["text"], list) else row["text"]} for row in paragraphs
    ]
    return rows
