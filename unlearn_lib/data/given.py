"""Data sets as they are given in Python: the one door through which they come in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Any

from unlearn_lib.data.files import FORMATS, read_rows
from unlearn_lib.data.rows import LARGEST, Row, checked, shown
from unlearn_lib.errors import InputError


def rows_of(data: Any, name: str = "", *, lenient: bool = False) -> list[Row]:
    """The rows of a data set, each with the columns alone that are used (see `checked_row`); none of an empty one.

    Args:
        data: A `datasets.Dataset`; a list (or anything that can be gone through in order) of dicts or of strings, which are
            texts; a pandas DataFrame or Series, or an Arrow table; the path of a file for `read_rows`. A stream
            (`datasets.IterableDataset`, a generator) is gone through once and kept.
        name: What messages call the data set: "forget", ...
        lenient: Whether a text may be nothing but blanks, and messages may have any keys.

    Raises:
        InputError: Something else: several splits, one row or one text where a list of them is needed, columns by name, a set
            (it has no order), a stream without an end; a row that `checked_row` refuses, with its number from 0.
    """
    what = f"the {name} set" if name else "the data set"
    if isinstance(data, Path) or (isinstance(data, str) and data.lower().endswith(FORMATS)):
        return read_rows(data)
    rows, size = [], 0
    for number, row in enumerate(_iterable(data, what)):
        one = checked({"text": row} if isinstance(row, str) else row, f"{name} row {number}".lstrip(), lenient=lenient)
        rows.append(one)
        size += sum(len(value) for value in one.values())
        if size > LARGEST:
            raise InputError(
                f"{what} has more than {LARGEST / 2**20:,.0f} MiB of text in its first {number + 1:,} rows, or no end; take a part of it"
            )
    return rows


def _iterable(data: Any, what: str) -> Iterable[Any]:
    if isinstance(data, str):
        raise InputError(f"{what} is a single string; give a list of texts, or the path of a file that ends in {_endings()}")
    if isinstance(data, Mapping):
        keys = ", ".join(shown(key) for key in list(data)[:12])
        if any(hasattr(value, "features") for value in data.values()):  # a DatasetDict, or one of streams
            raise InputError(f"{what} has several splits ({keys}); give one of them, such as data[{next(iter(data))!r}]")
        raise InputError(
            f"{what} is one dict ({keys}); give a list of rows, such as [{{'text': '...'}}], or a datasets.Dataset"
        )
    if _is(data, "pandas", "DataFrame"):
        if not data.columns.is_unique:
            raise InputError(f"{what} is a DataFrame in which two columns have the same name; rename one")
        return (dict(zip(data.columns, values, strict=True)) for values in data.itertuples(index=False, name=None))
    if _is(data, "pyarrow", "Table"):
        data = data.to_pylist()
    if data is None or isinstance(data, (bytes, bytearray, Set)):
        kind = "has no order" if isinstance(data, Set) else "holds no rows"
        raise InputError(f"{what} is a {type(data).__name__}, which {kind}; give a list of rows, or a datasets.Dataset")
    try:
        rows: Iterable[Any] = iter(data)
        return rows
    except TypeError as error:
        raise InputError(
            f"{what} is a {shown(type(data).__name__)}; give a datasets.Dataset, a list of rows or texts, or a DataFrame"
        ) from error


def _is(data: Any, package: str, name: str) -> bool:
    """Whether it is of that class, without an import of the package where nothing of it was made."""
    return any(kind.__name__ == name and kind.__module__.partition(".")[0] == package for kind in type(data).__mro__)


def _endings() -> str:
    return ", ".join(FORMATS)
