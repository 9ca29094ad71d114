"""The public data sets of the paper: where they are, which splits play which part, and how they are read.

Repository, revision and configuration are named explicitly because half of these data sets' usual names point at loading
scripts, which `datasets` 4 and later refuse. The files are downloaded as they are and read by `datasets`; a folder that holds
the same files (for instance from `hf download`) serves as well.
"""

from __future__ import annotations

import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn_lib.errors import HubUnavailableError, InputError
from unlearn_lib.hub import hub_reachable


@dataclass(frozen=True)
class HubSet:
    """One data set: `splits` maps our parts (train, test, holdout) to (split, number of rows expected)."""

    repository: str
    splits: dict[str, tuple[str, int]]
    config: str | None = None
    revision: str | None = None
    files: str = "*"


HUB_SETS: dict[str, HubSet] = {
    "arc_easy": HubSet(
        "allenai/ai2_arc",
        {"train": ("train", 2251), "test": ("test", 2376), "holdout": ("validation", 570)},
        config="ARC-Easy",
        files="ARC-Easy/*",
    ),
    # The test labels are withheld (-1), so the paper's 1838 test questions are the validation split, which also has to serve
    # as held-out text.
    "piqa": HubSet(
        "ybisk/piqa",
        {"train": ("train", 16113), "test": ("validation", 1838), "holdout": ("validation", 1838)},
        config="default",
        revision="refs/convert/parquet",
    ),
    "mathqa": HubSet("regisss/math_qa", {"train": ("train", 29837), "test": ("test", 2985), "holdout": ("validation", 4475)}),
    # The paper trains on about 5k passages: the development split.
    "lambada": HubSet(
        "cimec/lambada", {"train": ("validation", 4869), "test": ("test", 5153), "holdout": ("test", 5153)}, config="plain_text"
    ),
}
# Judgments of the European Court of Human Rights: column `text`, a list of paragraphs.
REFERENCE = HubSet("coastalcph/lex_glue", {"reference": ("train", 9000)}, config="ecthr_a", files="ecthr_a/*")


def download(task: str, hub_set: HubSet) -> Path:
    """The folder with the data set's files, from the local cache or the hub.

    Raises:
        HubUnavailableError: Neither holds it; raised within about a second.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                hub_set.repository,
                repo_type="dataset",
                revision=hub_set.revision,
                allow_patterns=["README.md", hub_set.files],
                local_files_only=not hub_reachable(),
            )
        )
    except OSError as error:
        raise HubUnavailableError(
            f"data set {hub_set.repository!r} for task {task!r} is not here: the Hugging Face hub cannot be reached and the local "
            f"cache does not hold it; connect once, or use the embedded substitute load_task({task!r}, source='nano')"
        ) from error


def read_split(folder: Path, hub_set: HubSet, part: str, columns: tuple[str, ...]) -> Any:
    """One split as a `datasets.Dataset`, its columns checked.

    Raises:
        InputError: No such split, or columns are missing: the mirror has changed, or the folder holds something else.

    Warns:
        UserWarning: The number of rows is not the one the paper's data have.
    """
    from datasets import load_dataset

    split, expected = hub_set.splits[part]
    try:
        # the cache of `datasets` tells folders apart by their last name alone, and does not see that files have changed
        with tempfile.TemporaryDirectory() as cache:
            rows = load_dataset(str(folder), hub_set.config, split=split, cache_dir=cache, keep_in_memory=True)
    except (ValueError, FileNotFoundError) as error:
        raise InputError(
            f"{folder} cannot be read as {hub_set.repository} ({hub_set.config}), split {split!r}: {error}"
        ) from error
    missing = [name for name in columns if name not in rows.column_names]
    if missing:
        raise InputError(
            f"split {split!r} in {folder} lacks the columns {', '.join(missing)} of {hub_set.repository}; "
            f"it has {', '.join(rows.column_names)}"
        )
    if len(rows) != expected:
        warnings.warn(
            f"{hub_set.repository} split {split!r} has {len(rows)} rows, not {expected} as in the paper", stacklevel=2
        )
    return rows
