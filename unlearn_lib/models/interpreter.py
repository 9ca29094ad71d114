"""The documentation and source of the running Python interpreter, as texts: read where it is installed, never copied."""

from __future__ import annotations

import hashlib
import os
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path

LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
"""Folders of the standard library that are not read: tests, and what was installed on top."""

HELD_OUT_OF = 20
"""One of so many texts is held out, chosen by the SHA-256 of its name."""


def texts(held_out: bool) -> Iterator[str]:
    """The standard library's source files by path, then pydoc's topics by name: those held out, or all others.

    The same texts in the same order for the same interpreter. A file that cannot be decoded as Python is left out.
    """
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in _sources(root):
        if is_held_out(path.relative_to(root).as_posix()) == held_out:
            try:
                with tokenize.open(path) as file:
                    text = file.read()
            except (SyntaxError, UnicodeDecodeError):
                continue
            if text:
                yield text
    from pydoc_data.topics import topics

    for topic in sorted(topics):
        if is_held_out(f"topic {topic}") == held_out:
            yield topics[topic]


def _sources(root: Path) -> list[Path]:
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        found += [Path(folder, name) for name in files if name.endswith(".py")]
    return sorted(found)


def is_held_out(name: str) -> bool:
    """Whether the text of this name is held out."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % HELD_OUT_OF == 0
