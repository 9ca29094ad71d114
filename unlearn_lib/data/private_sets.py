"""The two data sets of the case studies, read from a user's own download: they hold real people's data and are on no hub.

* `medical`: `mtsamples.csv` of the Kaggle data set tboyle10/medicaltranscriptions, column `transcription`;
* `email`: `emails.csv` of the Kaggle data set wcukierski/enron-email-dataset, column `message`, one RFC 5322 mail a row.

Long documents are cut into segments, as in the paper (section 6). What is trained on, held out and asked about is decided by a
hash of the whole document, so that no document is on two sides. Nothing of a text is ever written by this module.
"""

from __future__ import annotations

import csv
import email
import email.policy
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unlearn_lib.errors import InputError

NO_HUB = (
    "task {name!r} holds real people's data and is on no hub; download it yourself and give its folder as source, or use the "
    "embedded substitute load_task({name!r}, source='nano')"
)
FILES = {"medical": ("mtsamples.csv", "transcription"), "email": ("emails.csv", "message")}
HEADERS = ("From", "To", "Date", "Subject")
SEGMENT = 1000
"""Characters of a segment, at most: about 250 tokens of English."""
SHARES = {"test": 5, "holdout": 15}
"""Percent of the documents; the others are trained on."""


def read_parts(name: str, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """`train` and `holdout` (`text`), `test` (`prompt` and the last word as `completion`), `reference` (`text`: the held-out texts,
    as the court's judgments of the paper are not part of the download).

    Raises:
        InputError: No such folder or file, or not the columns it should have; the message never quotes a text.
    """
    file, column = FILES[name]
    if not (folder / file).is_file():
        raise InputError(f"source must be 'nano' or a folder with your own download of {file}; there is no {folder / file}")
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "holdout": [], "test": []}
    for document in _documents(folder / file, column):
        text = _mail(document) if name == "email" else document
        part = _part(document)
        for segment in segments(text):
            if part != "test":
                parts[part].append({"text": segment})
            elif len(words := segment.rsplit(maxsplit=1)) == 2:
                parts["test"].append({"prompt": words[0], "completion": f" {words[1]}"})
    for part, rows in parts.items():
        if not rows:
            raise InputError(f"{folder / file} holds too few documents: none fell to the part {part!r}")
    return parts | {"reference": list(parts["holdout"])}


def segments(text: str, characters: int = SEGMENT) -> Iterator[str]:
    """The text in pieces of at most so many characters, cut at white space where there is some; white space at the ends is lost."""
    rest = text.strip()
    while len(rest) > characters:
        cut = max(rest.rfind(blank, 0, characters + 1) for blank in (" ", "\n", "\t"))
        piece = rest[: cut if cut > 0 else characters]
        yield piece.rstrip()
        rest = rest[len(piece) :].lstrip()
    if rest:
        yield rest


def _documents(file: Path, column: str) -> Iterator[str]:
    csv.field_size_limit(sys.maxsize)  # some mails are longer than the module's default
    with file.open(encoding="utf-8", errors="replace", newline="") as stream:
        reader = csv.DictReader(stream)
        if column not in (reader.fieldnames or ()):
            raise InputError(f"{file} has no column {column!r}; it has {', '.join(reader.fieldnames or ['none'])}")
        for row in reader:
            if row[column] and row[column].strip():
                yield row[column]


def _mail(message: str) -> str:
    """The headers a reader sees, and the body."""
    parsed = email.message_from_string(message, policy=email.policy.compat32)
    head = [f"{name}: {parsed[name]}" for name in HEADERS if parsed[name]]
    body = parsed.get_payload()
    return "\n".join([*head, "", body if isinstance(body, str) else ""])


def _part(document: str) -> str:
    place = int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") % 100
    for part, share in SHARES.items():
        if place < share:
            return part
        place -= share
    return "train"
