"""A user's own texts: JSONL, CSV or Parquet with the columns `text`, or `prompt` and `completion`, or `messages`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from unlearn_lib.data.rows import EXAMPLE, shown
from unlearn_lib.data.rows import Row as Row
from unlearn_lib.data.rows import checked_row as checked_row
from unlearn_lib.data.rows import row_sha256 as row_sha256
from unlearn_lib.data.rows import scored_content as scored_content
from unlearn_lib.data.rows import write_rows as write_rows
from unlearn_lib.data.tables import csv_rows, parquet_rows
from unlearn_lib.errors import InputError

FORMATS = (".jsonl", ".json", ".csv", ".parquet")


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a file, only the columns that are used; every text as it stands there, character by character.

    JSONL: one object a line; a line ends with LF or CR LF, and nothing else ends one. A `.json` file may also be one list of
    objects. CSV: commas, quoted as in RFC 4180, the names of the columns first. All in UTF-8, with or without a byte order mark.

    Raises:
        InputError: No such file, another kind of file, a line or row that is not what it should be (with its number), no rows,
            a Parquet file that holds too much for its size (see `unlearn_lib.data.tables`).

    Cost: memory for the rows; of a CSV file also for its bytes.
    """
    suffix = os.path.splitext(path)[1].lower()
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder; give one file, whose name ends in {', '.join(FORMATS)}")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"{path} is a pipe or a device, not a file; it is read more than once, so save it as a file first")
    if not os.path.isfile(path):
        raise InputError(f"{path}: there is no such file")
    if suffix not in FORMATS:
        raise InputError(f"{path}: the name must end in .jsonl, .csv or .parquet, by which its format is known")
    reader = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": parquet_rows}[suffix]
    with open(path, "rb") as file:
        rows = [checked_row(row, where) for where, row in reader(file, str(path))]
    if not rows:
        raise InputError(f"{path}: the file has no rows; give at least one text")
    return rows


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _jsonl(file: BinaryIO, path: str) -> Iterator[tuple[str, Any]]:
    for number, line in _lines(file, path):
        if line.strip(" \t\r\n"):
            yield f"{path}:{number}", _parsed(line, f"{path}:{number}", f"one object a line, such as {EXAMPLE}")


def _json(file: BinaryIO, path: str) -> Iterator[tuple[str, Any]]:
    """JSON lines, or one list of objects, as `datasets` and pandas write it."""
    lines = _lines(file, path)
    head = []
    for number, line in lines:
        head.append((number, line))
        if line.strip():
            break
    if not head or not head[-1][1].lstrip().startswith("["):
        file.seek(0)
        yield from _jsonl(file, path)
        return
    text = "".join(line for _, line in [*head, *lines])
    found = _parsed(text, path, f"a list of objects, such as [{EXAMPLE}], or one object a line")
    for number, row in enumerate(found if isinstance(found, list) else [found], 1):
        yield f"{path}, row {number}", row


def _lines(file: BinaryIO, path: str) -> Iterator[tuple[int, str]]:
    """Every line with its number, LF and CR LF included. Only LF ends one: no character of UTF-8 has its byte inside."""
    start = 0
    for number, line in enumerate(file, 1):
        if number == 1:
            _refuse_utf16(line, path)
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            at = start + len(line) - len(error.object) + error.start  # without the byte order mark in `object`
            raise InputError(f"{path}:{number}: not UTF-8 text ({error.reason} at byte {at}); convert it") from error
        start += len(line)


def _csv(file: BinaryIO, path: str) -> Iterator[tuple[str, Any]]:
    for _ in _lines(file, path):
        pass  # all of it is UTF-8
    file.seek(0)
    return csv_rows(file.read().removeprefix(b"\xef\xbb\xbf"), path)


def _refuse_utf16(beginning: bytes, path: str) -> None:
    if beginning.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{path}: not UTF-8 text but UTF-16; convert it to UTF-8")


def _parsed(text: str, where: str, remedy: str) -> Any:
    try:
        # characters such as form feeds inside a string are read as they stand, although they should be escaped
        return json.loads(text, strict=False, object_pairs_hook=_unique)
    except _TwiceError as error:
        raise InputError(f"{where}: the name {error} stands twice in one object; give each row one value for it") from error
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not valid JSON ({error}); {remedy}") from error
    except RecursionError as error:
        raise InputError(f"{where}: lists and objects are nested too deeply to be read; {remedy}") from error
    except ValueError as error:
        raise InputError(f"{where}: a number has too many digits to be read ({error}); {remedy}") from error


class _TwiceError(Exception):
    """A name that an object has twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(repr(shown(next(name for name in names if names.count(name) > 1))))
    return found
