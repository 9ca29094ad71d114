"""MUSE (Shi et al., arXiv 2407.06460; CC BY 4.0): texts to forget, with measures of what is left of their words and of their facts.

Read from a user's own copy, or from the hub's `muse-bench/MUSE-News` and `muse-bench/MUSE-Books`. Nothing of it comes with this library;
generated articles and books stand in for it (`unlearn_lib.data.nano.news` and `books`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unlearn_lib.data.hub_sets import HubSet, download
from unlearn_lib.data.nano import books, news
from unlearn_lib.data.questions import asked, text_of
from unlearn_lib.data.rows import shown
from unlearn_lib.data.tables import parquet_rows
from unlearn_lib.errors import InputError, unknown

SPLITS = {"news": "muse-bench/MUSE-News", "books": "muse-bench/MUSE-Books"}
MADE = {"news": news.files, "books": books.files}
DEFAULT_SPLIT = "news"
FOLDS = 4

TEXTS = {
    "forget": ("raw", "forget"),
    "retain": ("raw", "retain1"),
    "retain_other": ("raw", "retain2"),
    "holdout": ("raw", "holdout"),
    "leak_forget": ("privleak", "forget"),
    "leak_holdout": ("privleak", "holdout"),
}
"""The configuration and the split of every part that is texts."""
QUESTIONS = {
    "knowledge_forget": ("knowmem", "forget_qa"),
    "knowledge_retain": ("knowmem", "retain_qa"),
    "shots_forget": ("knowmem", "forget_qa_icl"),
    "shots_retain": ("knowmem", "retain_qa_icl"),
}
REQUESTS = {
    f"{part}_{number}": (configuration, f"forget_{number}")
    for part, configuration in (("scaling", "scal"), ("sustainability", "sust"))
    for number in range(1, FOLDS + 1)
}
"""The parts that MUSE-News alone has."""

Row = dict[str, Any]
Read = Callable[[str, str, tuple[str, ...]], list[Row]]
"""Gives the rows of a configuration and a split, which have these columns; none where the split is not there."""


def muse_parts(source: str | Path, seed: int, split: str | None) -> dict[str, list[Row]]:
    """The parts of MUSE-News or MUSE-Books.

    Texts, with the column `text`: `forget`; `retain`, those that a method may be given to retain (`retain1` of MUSE); `retain_other`,
    further ones that the original model learnt and no method is given (`retain2`); `holdout`, which it never saw; `leak_forget` and
    `leak_holdout`, those that PrivLeak compares. Of "news" also `scaling_1` to `scaling_4`, growing requests of which each contains the
    one before, and `sustainability_1` to `sustainability_4`, disjoint requests that come one after another; `forget` is the first
    of both. MUSE's original model of the news learnt `scaling_4`, `retain` and `retain_other`.

    With the columns `prompt` and `completion`: `verbatim`, beginnings of texts to forget and how they go on; `knowledge_forget` and
    `knowledge_retain`, questions on the facts of `forget` and of `retain_other`; `shots_forget` and `shots_retain`, answered questions
    that stand in front of those as examples. The questions are worded as in TOFU here (`PROMPT`); MUSE's code has another blank
    behind "Answer:", which is a token of its own to some tokenizers.

    Args:
        source: "nano", "hub", or a folder that holds one folder for each configuration (raw, privleak, verbmem, knowmem, and for the
            news scal and sust; train is not read). In it are the hub's Parquet files, or the JSON files that MUSE's own script
            for loading the data makes of them.
        seed: Which articles or books are generated ("nano").
        split: "news" (default) or "books".

    Raises:
        InputError: An unknown split; no such folder; a file is missing or has another layout than the hub's of July 2024.
        HubUnavailableError: "hub", and neither the cache nor the hub has it.
    """
    split = DEFAULT_SPLIT if split is None else split
    if split not in SPLITS:
        raise unknown("split of MUSE", split, SPLITS)
    read = _reader(source, seed, split)

    def rows(place: tuple[str, str], *columns: str) -> list[tuple[Row, str]]:
        name = "/".join(place)
        return [(row, f"{name}, row {number}") for number, row in enumerate(_checked(read(*place, columns), name, columns), 1)]

    def texts(place: tuple[str, str]) -> list[Row]:
        return [{"text": text_of(row, "text", where)} for row, where in rows(place, "text")]

    parts = {part: texts(place) for part, place in TEXTS.items()}
    parts["verbatim"] = [
        {"prompt": text_of(row, "prompt", where), "completion": text_of(row, "gt", where)}
        for row, where in rows(("verbmem", "forget"), "prompt", "gt")
    ]
    for part, place in QUESTIONS.items():
        found = rows(place, "question", "answer")
        parts[part] = [asked(text_of(row, "question", where), text_of(row, "answer", where)) for row, where in found]
    if split == "news":
        parts |= {part: texts(place) for part, place in REQUESTS.items()}
    return parts


def _reader(source: str | Path, seed: int, split: str) -> Read:
    if source == "nano":
        made = MADE[split](seed)
        return lambda configuration, name, _: made[configuration, name]
    folder = download("muse", HubSet(SPLITS[split], {}, files="*.parquet")) if source == "hub" else Path(source)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give the folder with your copy of {SPLITS[split]}, 'hub' or 'nano'")

    def read(configuration: str, name: str, columns: tuple[str, ...]) -> list[Row]:
        where = folder / configuration
        tables, plain = sorted(where.glob(f"{name}-*.parquet")), where / f"{name}.json"
        if not tables and not plain.is_file():
            there = ", ".join(shown(path.name) for path in sorted(where.iterdir())[:12]) if where.is_dir() else "nothing"
            raise InputError(
                f"{where} holds neither {name}-*.parquet nor {name}.json, the split {name!r} of the configuration {configuration!r} of "
                f"{SPLITS[split]} (found there: {there}); download that data set again, or rename what had another name in its earlier "
                "versions"
            )
        return [row for path in tables for row in _table(path, columns)] if tables else _list(plain)

    return read


def _table(path: Path, columns: tuple[str, ...]) -> list[Row]:
    with path.open("rb") as file:
        return [row for _, row in parquet_rows(file, str(path), columns)]


def _list(path: Path) -> list[Row]:
    """The rows of a file that is one JSON list, of objects or of texts."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not one of MUSE's files: it should be one JSON list ({error})") from error
    if not isinstance(rows, list):
        raise InputError(f"{path} is not one of MUSE's files: it should be one JSON list of texts or of objects")
    return [{"text": row} if isinstance(row, str) else row for row in rows]


def _checked(rows: list[Row], name: str, columns: tuple[str, ...]) -> list[Row]:
    if not rows:
        raise InputError(f"{name} of MUSE holds no rows; download it again")
    for number, row in enumerate(rows, 1):
        missing = [column for column in columns if not isinstance(row, Mapping) or column not in row]
        if missing:
            has = ", ".join(map(shown, row)) if isinstance(row, Mapping) else "no columns"
            raise InputError(
                f"{name}, row {number}: lacks the column {', '.join(missing)} that MUSE has there (it has: {has}), so this is another "
                "layout than the one that is known here, the hub's of July 2024"
            )
    return rows
