"""Files and folders that appear whole or not at all: written beside their place, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = ".writing-"


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """An empty file to fill, which becomes `path` when the block ends without an error and disappears otherwise.

    After an interruption, or on a full disk, the old content is still there and nothing else is.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=PREFIX)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a file at once, see `new_file`."""
    with new_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends without an error and disappears otherwise.

    An empty folder at `path` is replaced.

    Raises:
        FileExistsError: There is something at `path` already.
    """
    target = Path(path)
    refuse_to_overwrite(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=PREFIX))
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        os.replace(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def refuse_to_overwrite(path: Path) -> None:
    """Raise where `path` exists and is not an empty folder.

    Raises:
        FileExistsError: So it is.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise FileExistsError(f"{path} exists already; nothing is overwritten: choose another folder, or remove it first")
