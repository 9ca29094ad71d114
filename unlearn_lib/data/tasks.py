"""`load_task`: the paper's six tasks and three benchmarks of unlearning, embedded, from the hub or from a user's own copy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

from unlearn_lib.data import hub_sets, private_sets
from unlearn_lib.data.formats import FORMATS
from unlearn_lib.data.nano import arc, court, email, lambada, mathqa, medical, piqa
from unlearn_lib.data.nano.documents import Kind, collection, questions
from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.data.question_tasks import QUESTION_TASKS, load_questions
from unlearn_lib.data.questions import QuestionTask, hash_of
from unlearn_lib.errors import InputError, unknown

NANO_RECORDS: dict[str, Callable[..., dict[str, Any]]] = {
    "arc_easy": arc.record,
    "piqa": piqa.record,
    "mathqa": mathqa.record,
    "lambada": lambada.record,
}
PRIVATE_KINDS: dict[str, Kind] = {"medical": medical.KIND, "email": email.KIND}
TASKS = (*FORMATS, *PRIVATE_KINDS)
NEAR_DUPLICATES = 0.2
NANO_SIZES = {"train": 512, "test": 400, "holdout": 256, "reference": 256}


@dataclass(frozen=True)
class Task:
    """A task: four data sets (`datasets.Dataset`) and how accuracy is measured.

    `train` and `holdout` have the column `text` and the same distribution, but `holdout` is never trained on; those of the
    embedded `medical` and `email` also have `secrets`, the personal data in a text by what they are, and `original`, a number
    that near-duplicates of each other share. `test` has `prompt` and either `choices` and `label`, or
    `completion`. `reference` has `text`: the texts against which exposure ranks a
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
        return hash_of((self.train, self.test, self.holdout, self.reference))


@overload
def load_task(  # type: ignore[overload-overlap]  # a name that is a literal is one of these; any other string is a task of the paper
    name: Literal["tofu", "knowundo", "muse"],
    source: str | Path = ...,
    seed: int = ...,
    sizes: Mapping[str, int] | None = ...,
    near_duplicates: float = ...,
    split: str | None = ...,
) -> QuestionTask: ...


@overload
def load_task(
    name: str,
    source: str | Path = ...,
    seed: int = ...,
    sizes: Mapping[str, int] | None = ...,
    near_duplicates: float = ...,
    split: str | None = ...,
) -> Task: ...


def load_task(
    name: str,
    source: str | Path = "nano",
    seed: int = 0,
    sizes: Mapping[str, int] | None = None,
    near_duplicates: float = NEAR_DUPLICATES,
    split: str | None = None,
) -> Task | QuestionTask:
    """Load a task of the paper, or a benchmark of unlearning.

    Args:
        name: `arc_easy`, `piqa`, `mathqa` or `lambada`; `medical` or `email` of the case studies; `tofu` (arXiv 2401.06121),
            `knowundo` (arXiv 2407.01920) or `muse` (arXiv 2407.06460), which have several parts and give a `QuestionTask`.
        source: `"nano"`: generated here, fictitious, identical everywhere, no network. `"hub"`: the public data set. A folder: a
            local copy of that data set's files. Of the benchmarks see `tofu_parts`, `knowundo_parts` and `muse_parts`.
        seed: Which records are generated (`"nano"`), or which are kept when `sizes` asks for fewer than there are.
        sizes: Number of rows by part (`train`, `test`, `holdout`, `reference`); `"nano"` has 512, 400, 256, 256 by default, the
            other sources all rows. Of the benchmarks the most rows that are kept of a part; by default all.
        near_duplicates: Of the embedded `medical` and `email`: the probability that a text is a near-duplicate of an earlier one.
        split: Of `tofu` which authors are to be forgotten: `forget01`, `forget05` or `forget10` (default). Of `muse` which of its two data
            sets: `news` (default) or `books`.

    Raises:
        InputError: Unknown task, part or split; a split of a task that has none; a folder whose files do not fit, or whose reference
            texts are too short; a probability that is none.
        HubUnavailableError: `"hub"` without a network, and nothing in the local cache; raised within about a second.
    """
    if name in QUESTION_TASKS:
        return load_questions(name, source, seed, sizes, split)
    if name not in TASKS:
        raise unknown("task", name, (*TASKS, *QUESTION_TASKS))
    if split is not None:
        raise InputError(f"task {name!r} has no splits to choose from, and split={split!r} was given; leave it out")
    for part in sizes or {}:
        if part not in NANO_SIZES:
            raise unknown("part of a task", part, NANO_SIZES)
    if not 0 <= near_duplicates < 1:
        raise InputError(
            f"near_duplicates is the probability of a near-duplicate, at least 0 and below 1; got {near_duplicates}"
        )
    wanted = {**NANO_SIZES, **(sizes or {})}
    if name in PRIVATE_KINDS:
        parts, accuracy = _private_parts(name, source, seed, wanted, near_duplicates), "last_word"
    else:
        rows = _nano_rows(name, seed, wanted) if source == "nano" else _hub_rows(name, source)
        parts, accuracy = _formatted(name, rows), FORMATS[name].accuracy
        if source != "nano":
            parts["reference"] = _long_enough(parts["reference"], parts["train"] + parts["holdout"])
    if source != "nano":
        for part, size in (sizes or {}).items():
            if size < len(parts[part]):
                parts[part] = Draw("subset", name, part, seed).sample(parts[part], size)

    from datasets import Dataset

    return Task(name, str(source), seed, accuracy=accuracy, **{part: Dataset.from_list(parts[part]) for part in parts})


def _formatted(name: str, rows: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    fmt = FORMATS[name]
    parts: dict[str, list[dict[str, Any]]] = {
        part: [{"text": text} for row in rows[part] if (text := fmt.text(row)) is not None] for part in ("train", "holdout")
    }
    parts["test"] = [question for row in rows["test"] if (question := fmt.question(row)) is not None]
    parts["reference"] = list(rows["reference"])
    return parts


def _private_parts(
    name: str, source: str | Path, seed: int, sizes: Mapping[str, int], near_duplicates: float
) -> dict[str, list[dict[str, Any]]]:
    if source == "hub":
        raise InputError(private_sets.NO_HUB.format(name=name))
    if source != "nano":
        return private_sets.read_parts(name, Path(source))
    kind = PRIVATE_KINDS[name]
    parts = {part: collection(kind, ["task", name, seed, part], sizes[part], near_duplicates) for part in ("train", "holdout")}
    parts["test"] = questions(kind, ["task", name, seed, "test"], sizes["test"])
    parts["reference"] = _judgments(name, seed, sizes["reference"])
    return parts


def _judgments(name: str, seed: int, count: int) -> list[dict[str, Any]]:
    return [{"text": court.judgment(Draw("task", name, seed, "reference", i))} for i in range(count)]


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
    rows["reference"] = _judgments(name, seed, sizes["reference"])
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


def _long_enough(references: list[dict[str, Any]], texts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those with at least twice the characters of every text: exposure compares a text with as many tokens of each reference."""
    least = 2 * max(len(row["text"]) for row in texts)
    found = [row for row in references if len(row["text"]) >= least]
    if not found:
        raise InputError(
            f"no reference text has {least} characters, twice those of the longest training text; give longer references"
        )
    return found
