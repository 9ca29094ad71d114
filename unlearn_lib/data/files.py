"""A user's own texts: JSONL, CSV or Parquet with the columns `text`, or `prompt` and `completion`, or `messages`."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from unlearn_lib.errors import InputError

Row = dict[str, Any]
COLUMNS = ("text", "prompt", "completion", "messages")


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a file, only the columns that are used.

    Raises:
        InputError: No such file, another kind of file, a line that is not what it should be (with its number), no rows.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{path}: there is no such file")
    kinds = {".jsonl": _jsonl, ".json": _jsonl, ".csv": _csv, ".parquet": _parquet}
    if file.suffix.lower() not in kinds:
        raise InputError(f"{path}: the name must end in .jsonl, .csv or .parquet, by which its format is known")
    rows = [checked_row(row, f"{path}:{line}") for line, row in kinds[file.suffix.lower()](file)]
    if not rows:
        raise InputError(f"{path}: the file has no rows; give at least one text")
    return rows


def write_rows(rows: Iterable[Row]) -> str:
    """JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def row_sha256(row: Row) -> str:
    """The SHA-256 of a text: of its row as JSON with sorted keys, whatever kind of file it came from."""
    return hashlib.sha256(json.dumps(row, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _jsonl(file: Path) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_text(file).split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{file}:{number}: not valid JSON ({error}); one object a line, such as {_EXAMPLE}") from error


def _csv(file: Path) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(_text(file).splitlines(keepends=True))
    for row in reader:
        yield reader.line_num, {key: value for key, value in row.items() if key in COLUMNS}


def _parquet(file: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        yield from enumerate(pq.read_table(file).to_pylist(), 1)
    except pa.ArrowInvalid as error:
        raise InputError(f"{file}: not a Parquet file ({error})") from error


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text ({error.reason} at byte {error.start}); convert it") from error


_EXAMPLE = '{"text": "..."}'


def checked_row(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise InputError(f"{where}: each row must be an object with named columns, such as {_EXAMPLE}")
    for columns in (("text",), ("prompt", "completion")):
        if all(isinstance(row.get(column), str) for column in columns):
            if not row[columns[-1]].strip():
                raise InputError(f"{where}: column {columns[-1]!r} is empty; remove the row")
            return {column: row[column] for column in columns}
    if isinstance(row.get("messages"), list) and row["messages"]:
        return {"messages": row["messages"]}
    raise InputError(
        f"{where}: needs the column 'text', or 'prompt' and 'completion', as strings, or 'messages'; it has: "
        f"{', '.join(map(str, row)) or 'none'}"
    )
