"""One row of a data set: which columns are used, what may stand in them, and what makes two texts the same.

    {"text"}                    the whole text is scored
    {"prompt", "completion"}    the completion is scored
    {"messages"}                through the tokenizer's chat template

Every row passes `checked_row`, whether it comes from a file, from Python or through a removal service.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from unlearn_lib.errors import InputError

Row = dict[str, Any]
TEXT_COLUMNS = (("text",), ("prompt", "completion"))
"""The columns of the rows that hold one text; the last of them is what is scored."""
COLUMNS = ("text", "prompt", "completion", "messages")
EXAMPLE = '{"text": "..."}'
LARGEST = 4 << 30
"""Bytes of text that a data set may have at most, where its size is not known before it is read: some 10^9 tokens."""
DEEPEST = 50
"""How deep lists and objects inside messages may be nested; calls of tools need about 5."""
MOST_BITS = 1024
"""The most bits of a whole number inside messages: other readers of JSON take none that is larger than a double."""
_KINDS = {type(None): "null", bytes: "bytes", bool: "true or false", int: "a number", float: "a number", str: "a string"}


def checked_row(row: Any, where: str) -> Row:
    """The row with the columns that are used alone: `text`, else `prompt` and `completion`, else `messages`.

    Texts are kept as they are, character by character. Keys of messages without a value (null), which tables need where
    messages differ in their keys, are left out, except `content`.

    Args:
        row: A mapping with column names as keys.
        where: What a message calls the row, such as "forget.jsonl:3".

    Raises:
        InputError: No mapping, none of those columns, values of another kind, nothing but blanks, or characters that are no text.
    """
    return checked(row, f"{where}:")


def checked(row: Any, where: str, *, lenient: bool = False) -> Row:
    """As `checked_row`; `where` is the beginning of a message's sentence. With `lenient` a text may be nothing but blanks, and
    messages may have any keys: what the tokenizer and its chat template make of them is seen later."""
    if not isinstance(row, Mapping):
        raise InputError(f"{where} each row must be an object with named columns, such as {EXAMPLE}")
    if columns := _text_columns(row):
        if not lenient and not row[columns[-1]].strip():
            raise InputError(f"{where} column {columns[-1]!r} is empty; remove the row")
        return {column: _text(row[column], f"{where} column {column!r}") for column in columns}
    messages: Any = row.get("messages")
    if hasattr(messages, "tolist"):  # a numpy array, of pandas
        messages = messages.tolist()
    if isinstance(messages, (list, tuple)) and messages:
        return {"messages": [_message(message, f"{where} message {i}", lenient) for i, message in enumerate(messages, 1)]}
    raise InputError(
        f"{where} needs the column 'text', or 'prompt' and 'completion', as strings, or 'messages'; it has: {_found(row)}"
    )


def halves(row: Mapping[str, Any]) -> tuple[str, str] | None:
    """`(what stands before the scored text, the scored text)` of a row with one text; None for a conversation."""
    columns = _text_columns(row)
    return ("".join(row[column] for column in columns[:-1]), row[columns[-1]]) if columns else None


def whole_text(row: Mapping[str, Any]) -> str:
    """What a row says, as one string: prompt and completion joined, messages as JSON."""
    found = halves(row)
    return json.dumps(row["messages"], ensure_ascii=False) if found is None else "".join(found)


def _text_columns(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns with the one text of a row; none of a conversation, or of what is no row."""
    return next((columns for columns in TEXT_COLUMNS if all(isinstance(row.get(column), str) for column in columns)), ())


def scored_content(row: Mapping[str, Any]) -> str:
    """What makes two rows the same text: the used columns as JSON with sorted keys, whatever else the row holds.

    Raises:
        InputError: No used columns, or what is no text.
    """
    return json.dumps(checked(row, "the row", lenient=True), sort_keys=True, ensure_ascii=False)


def row_sha256(row: Mapping[str, Any]) -> str:
    """The SHA-256 of a text: of its `scored_content`, so that further columns and the kind of file do not matter."""
    return hashlib.sha256(scored_content(row).encode()).hexdigest()


def write_rows(rows: Iterable[Row]) -> str:
    """JSON lines, which `read_rows` gives back as they were."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def shown(name: object, most: int = 40) -> str:
    """A name from a user's data for a message: at most so many characters, all of which a terminal can show."""
    try:
        text = str(name)
    except ValueError:  # a whole number of thousands of digits
        text = f"a {type(name).__name__}"
    text = text if len(text) <= most else text[:most] + "..."
    return text if text.isprintable() else ascii(text)


def _message(message: Any, where: str, lenient: bool) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not (lenient or isinstance(message.get("role"), str)):
        raise InputError(f"{where} must be an object with a 'role' and a 'content', both strings")
    content = message.get("content")
    others = [value for key, value in message.items() if key not in ("role", "content") and value is not None]
    # calls of tools come without a content, and templates for several media take a list of parts
    if not lenient and not isinstance(content, (str, list, tuple)) and not (content is None and others):
        raise InputError(f"{where} has a 'content' that is {_kind(content)}; it must be a string")
    if not lenient and not others and not (content.strip() if isinstance(content, str) else content):
        raise InputError(f"{where} has an empty 'content'; remove the message")
    return {
        _text(key, f"{where} a name"): _plain(value, f"{where} {shown(key)!r}", 1)
        for key, value in message.items()
        if value is not None or key == "content"
    }


def _plain(value: Any, where: str, depth: int) -> Any:
    """A value inside a message as what JSON knows: strings, numbers, true, false, null, lists and objects."""
    if depth > DEEPEST:
        raise InputError(f"{where} is nested more than {DEEPEST} levels deep")
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, Mapping):
        return {_text(key, where): _plain(inner, where, depth + 1) for key, inner in value.items() if inner is not None}
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (list, tuple)):
        return [_plain(inner, where, depth + 1) for inner in value]
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        raise InputError(f"{where} holds a number of {value.bit_length():,} bits; write it as a string")
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise InputError(f"{where} holds {shown(value)}, which JSON has no value for")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where} must be a string, not {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where} holds half of a surrogate pair (U+{ord(value[error.start]):04X}, character {error.start + 1}), which is no "
            "character; the text was damaged on its way, so take it from its source again"
        ) from error
    return str(value)


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a list" if isinstance(value, (list, tuple)) else f"a {shown(type(value).__name__)}")


def _found(row: Mapping[Any, Any]) -> str:
    """The columns of a row, with what stands in those that would be used."""
    names = [f"{name} ({_kind(row[name])})" if name in COLUMNS else shown(name) for name in row]
    return ", ".join(names[:12] + ["..."] * (len(names) > 12)) or "none"
