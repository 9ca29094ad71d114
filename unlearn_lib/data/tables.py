"""Tables as rows: CSV and Parquet, both through pyarrow.

A small Parquet file can stand for more than any memory holds (a "zip bomb"), by mistake or by intent. What it says of itself is
compared with these bounds before it is read, and what comes out of it while it is read.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from unlearn_lib.data.rows import COLUMNS, LARGEST, shown
from unlearn_lib.errors import InputError

MOST_TIMES = 1000
"""A file that holds so many times its own size, and more than `HARMLESS` bytes, is refused. Texts shrink 3 to 10 times."""
HARMLESS = 256 << 20
AT_ONCE = 1 << 30
ROW = 256
"""Bytes that count for a row besides its text."""

_FIELD = rb'(?:"(?:[^"]++|"")*+(?:"|(\Z)))?+[^,\r\n]*+'
_RECORD = re.compile(_FIELD + rb"(?:," + _FIELD + rb")*+(?:\r\n|[\r\n]|\Z)")
"""One row of a CSV file with its end of line. Possessive, so that it takes linear time. A group is set where a quote stays open."""
_ONE_FIELD = re.compile(_FIELD + rb"(,?)")
_LINE_END = re.compile(rb"\r\n|[\r\n]")


def csv_rows(data: bytes, path: str) -> Iterator[tuple[str, Any]]:
    """`(where, row)` of a CSV file in UTF-8 without a byte order mark: commas, quotes as in RFC 4180, names of columns first.

    Raises:
        InputError: No column that is used, rows of another number of fields, a quote that is never closed.
    """
    import pyarrow as pa
    import pyarrow.csv as pc

    places = _places(data, path)
    where, header = next(places, (path, b""))
    if not header:
        return

    def read(part: bytes, **convert: Any) -> Any:
        return pc.read_csv(
            io.BytesIO(part),
            read_options=pc.ReadOptions(use_threads=False, block_size=min(max(len(part), 1 << 16) + 1, 2**31 - 1)),
            parse_options=pc.ParseOptions(newlines_in_values=True),  # a line break inside quotes is content, as it stands
            convert_options=pc.ConvertOptions(strings_can_be_null=False, **convert),
        )

    with _readable(path, "CSV"):
        names = read(header).column_names
    used = [name for name in names if name in COLUMNS]
    if not used:
        raise InputError(f"{where}: {_without_columns(names)}")
    if len(set(used)) < len(used):
        raise InputError(f"{where}: two columns have the same name ({', '.join(used)}); rename one")
    for where, record in _places(data, path):
        if (count := _fields(record)) != len(names):
            raise InputError(
                f"{where}: {count} fields where the header names {len(names)} columns; a text with a comma, a quote or a line break in "
                "it stands in quotes"
            )
    with _readable(path, "CSV"):
        table = read(data, column_types=dict.fromkeys(used, pa.large_string()), include_columns=used)
    for batch in table.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            yield next(places, (path, b""))[0], row


def _places(data: bytes, path: str) -> Iterator[tuple[str, bytes]]:
    """Where every row of a CSV file begins, and its bytes; lines without anything are no rows."""
    line = 1
    for match in _RECORD.finditer(data):
        if match[0].strip(b"\r\n"):
            if match[1] is not None or match[2] is not None:
                raise InputError(
                    f"{path}:{line}: a quote is opened in this row and never closed; close it, or double it where it is meant"
                )
            yield f"{path}:{line}", match[0]
        line += len(_LINE_END.findall(match[0]))


def _fields(record: bytes) -> int:
    """The number of fields in a row of a CSV file."""
    count, at = 1, 0
    while (match := _ONE_FIELD.match(record, at)) and match[2]:
        count, at = count + 1, match.end()
    return count


def _without_columns(names: list[str], used: Sequence[str] = COLUMNS) -> str:
    if used != COLUMNS:
        return f"needs the columns {', '.join(used)}; it has: {', '.join(map(shown, names[:12]))}"
    for separator, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if any(part.strip('" ') in COLUMNS for name in names for part in name.split(separator) if separator in name):
            return f"its columns seem to be separated by {word}, and commas are needed; save the file with commas"
    return f"needs the column 'text', or 'prompt' and 'completion'; it has: {', '.join(map(shown, names[:12]))}"


def parquet_rows(file: BinaryIO, path: str, used: Sequence[str] = COLUMNS) -> Iterator[tuple[str, Any]]:
    """`(where, row)` of a Parquet file, the columns alone that are used, read in pieces.

    Raises:
        InputError: No Parquet file, a damaged one, no column that is used, or more text than a file of its size can mean: by what
            its metadata say, before anything is read, and by what comes out.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    bound = _Bound(path, os.fstat(file.fileno()).st_size)
    with _readable(path, "Parquet"):
        source = pq.ParquetFile(file)
        # Of row groups, not of their columns: what pyarrow says of a damaged column ends the process (26.0).
        sizes = [max(0, source.metadata.row_group(i).total_byte_size) for i in range(source.metadata.num_row_groups)]
        said = sum(sizes) + ROW * max(0, source.metadata.num_rows)
        bound.add(said if said > 2 * bound.file_size else 0)  # other columns may be large and no text
        names = source.schema_arrow.names
        columns = [name for name in names if name in used]
    if not columns:
        raise InputError(f"{path}: {_without_columns(names, used)}")
    if len(set(columns)) < len(columns):
        raise InputError(f"{path}: two columns have the same name ({', '.join(columns)}); rename one")
    bound.size, number = 0, 0
    # A text may stand there once and count a million times. No value is longer than its part of the file says to be, so a piece of
    # so many rows takes at most AT_ONCE when it is written out; it is counted before the next one is.
    pieces = source.iter_batches(min(1024, max(1, AT_ONCE // max([1, *sizes]))), columns=columns)
    while True:
        with _readable(path, "Parquet", f" after row {number}"):
            piece = next(pieces, None)
            if piece is None:
                return
            values = [v.dictionary_decode() if isinstance(v, pa.DictionaryArray) else v for v in piece.columns]
            bound.add(sum(v.nbytes for v in values) + ROW * piece.num_rows)
            rows = pa.RecordBatch.from_arrays(values, names=piece.schema.names).to_pylist()
        for row in rows:
            number += 1
            yield f"{path}, row {number}", row


@dataclass
class _Bound:
    """What a compressed file may hold."""

    path: str
    file_size: int
    size: int = 0

    def add(self, size: int) -> None:
        """Count more bytes.

        Raises:
            InputError: There are more than a file of this size can hold.
        """
        self.size += size
        limit = min(LARGEST, max(HARMLESS, MOST_TIMES * self.file_size))
        if self.size > limit:
            raise InputError(
                f"{self.path}: {self.file_size:,} bytes that hold, or say that they hold, {self.size / 2**20:,.0f} MiB; at most "
                f"{limit / 2**20:,.0f} MiB are read of it ({MOST_TIMES} times its size, and {LARGEST >> 30} GiB in all). If it is meant, "
                "save it as JSONL"
            )


@contextmanager
def _readable(path: str, kind: str, place: str = "") -> Iterator[None]:
    """Whatever pyarrow finds wrong with a file, as one sentence."""
    import pyarrow as pa

    try:
        yield
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError, OverflowError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path}: not a {kind} file that can be read{place} ({shown(first, 200)})") from error
