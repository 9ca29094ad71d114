"""Files and folders that appear whole or not at all: written beside their place, then renamed.

What is written has the permissions that the user's umask gives (0666 and 0777 less the umask), or, with `private`, its owner's alone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unlearn_lib.errors import InputError

PREFIX = ".writing-"


class KeptError(OSError):
    """A folder was written in full and could not be put in its place; it is kept, and the message says where."""


@contextmanager
def new_file(path: str | Path, *, private: bool = False) -> Iterator[Path]:
    """An empty file to fill, which becomes `path` when the block ends without an error and disappears otherwise.

    After an interruption, or on a full disk, the old content is still there and nothing else is. The file is readable as the umask
    says, or with `private` by its owner alone (0600).
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{PREFIX}{secrets.token_hex(8)}"
    handle = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600 if private else 0o666)
    mode = os.fstat(handle).st_mode & 0o777
    os.close(handle)
    try:
        yield temporary
        os.chmod(temporary, mode)  # some writers put a file of their own in this place
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: str | Path, text: str, *, private: bool = False) -> None:
    """Write a file at once, in UTF-8, see `new_file`."""
    with new_file(path, private=private) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def new_folder(path: str | Path, *, private: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends without an error and disappears otherwise.

    That `path` can be written is tried before the block, so that no work is done in vain. An empty folder at `path` is filled, also
    where it is a mount point or where `path` is a link to it, and keeps its permissions. Only one process at a time can write a
    path; what a killed one has left is removed by the next. If the finished folder cannot be put in its place, it is kept.

    Args:
        path: The folder.
        private: Only its owner can read it and what is in it (0700 and 0600), whatever the umask.

    Raises:
        FileExistsError: There is something at `path` already, or another process is writing it.
        OSError: `path` cannot be written.
        KeptError: The folder is finished and kept in another place.
    """
    refuse_to_overwrite(Path(path))
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # in Python's words for a file in place of a folder
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target.parent)) from error
    inside = target.is_dir() and not _replaceable(target)
    parent = target if inside else target.parent
    # by it the next writer of this path knows what a killed one has left
    mark = PREFIX + hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]
    with only_writer(parent / f"{mark}.lock", path):
        for left in parent.glob(f"{mark}-*"):
            shutil.rmtree(left)
        refuse_to_overwrite(Path(path))  # another process may have written it meanwhile
        temporary = parent / f"{mark}-{secrets.token_hex(4)}"
        temporary.mkdir(mode=0o700 if private else 0o777)
        mode = temporary.stat().st_mode & 0o777
        if target.is_dir() and not private:
            mode = target.stat().st_mode & 0o7777  # whoever made the folder has said who can read it
        try:
            if not inside and not target.is_dir():
                _try(target, parent / f"{mark}-trial")
            yield temporary
            if private:
                make_private(temporary)
            os.chmod(temporary, mode)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _put(temporary, target, inside)


def check_writable(folder: Path) -> None:
    """Make the folder where it is missing, and write and remove a file in it: long work is not begun where its result has no place.

    Raises:
        OSError: The folder cannot be made or written; `filename` is the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        error.filename, error.filename2 = str(folder), None
        raise


def read_versioned(path: str | Path, versions: Collection[int], remedy: str = "") -> Any:
    """The JSON object in a file, whose `schema_version` is one of these.

    Raises:
        InputError: The file is not valid JSON (`remedy` ends the sentence), or has another schema version.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, numbers or nesting that Python does not read
        raise InputError(f"{path} is not valid JSON ({error}){remedy}") from error
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version not in versions:
        raise InputError(f"{path} has schema version {version}, this library reads {' and '.join(map(str, versions))}")
    return found


def refuse_to_overwrite(path: Path) -> None:
    """Raise where `path` exists and is not an empty folder, or a link to one. What an interrupted `new_folder` has left in a folder
    does not count.

    Raises:
        FileExistsError: Something is in the way.
        OSError: No folder can have this name.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return  # where a parent is a file, making the folder says so
    if path.is_symlink() and not path.exists():
        raise FileExistsError(f"{path} is a link to what does not exist: make the folder that it points to, or remove the link")
    if not path.is_dir() or any(not entry.name.startswith(PREFIX) for entry in path.iterdir()):
        raise FileExistsError(f"{path} exists already; nothing is overwritten: choose another folder, or remove it first")


def make_private(folder: Path) -> None:
    """Let nobody but the owner read a folder and all that is in it."""
    os.chmod(folder, 0o700)
    for place, folders, files in os.walk(folder):
        for name in folders:
            os.chmod(Path(place, name), 0o700)
        for name in files:
            os.chmod(Path(place, name), 0o600)


@contextmanager
def by_umask(folder: Path) -> Iterator[None]:
    """Give the files that a block adds to or changes in an existing folder the permissions that the umask says: safetensors makes
    files that nobody but their owner can read."""

    def seen() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}

    before = seen()
    yield
    probe = folder / f"{PREFIX}{secrets.token_hex(8)}"
    os.close(os.open(probe, os.O_CREAT | os.O_EXCL, 0o666))
    mode = probe.stat().st_mode & 0o777
    probe.unlink()
    for path, state in seen().items():
        if before.get(path) != state:
            os.chmod(path, mode)


def shown(name: object) -> str:
    """A file's name for a message or a report: bytes that are no text are written as escapes."""
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


def in_utf8(path: str | Path) -> bool:
    """Whether a name is the same in UTF-8 as on the disk. Libraries that are not written in Python (safetensors, tokenizers) always
    take names as UTF-8."""
    try:
        return os.fsencode(path) == str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False


def _replaceable(folder: Path) -> bool:
    """Whether another folder can be renamed to an empty one, tried with an empty one. It cannot where that is a mount point, or
    where its parent is not ours to write."""
    trial = folder.parent / f"{PREFIX}{secrets.token_hex(8)}"
    try:
        trial.mkdir()
    except OSError:
        return False
    try:
        shutil.copystat(folder, trial)
        os.replace(trial, folder)
    except OSError:
        with contextlib.suppress(OSError):
            trial.rmdir()
        return False
    return True


def _try(target: Path, trial: Path) -> None:
    """Make an empty folder and rename another one, `trial`, to it, as will be done with the finished one."""
    trial.mkdir()
    try:
        target.mkdir()
        try:
            os.replace(trial, target)
        finally:
            target.rmdir()
    finally:
        with contextlib.suppress(FileNotFoundError):
            trial.rmdir()


def _put(temporary: Path, target: Path, inside: bool) -> None:
    moved: list[Path] = []
    try:
        if inside:
            for path in sorted(temporary.iterdir()):
                if os.path.lexists(target / path.name):
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target / path.name))
                os.rename(path, target / path.name)
                moved.append(path)
        else:
            os.replace(temporary, target)
    except OSError as error:
        for path in moved:
            os.rename(target / path.name, path)
        kept = temporary.parent / f"{target.name}-kept-{secrets.token_hex(4)}"
        try:
            os.rename(temporary, kept)
        except OSError:
            kept = temporary
        raise KeptError(
            f"what was written could not be moved to {target} ({error.strerror}); nothing is lost: it is complete in {kept}"
        ) from error
    if inside:
        temporary.rmdir()


@contextmanager
def only_writer(lock: Path, path: str | Path) -> Iterator[None]:
    """Hold a lock file for a block. The lock ends with its process, however that ends, so that none is ever stale."""
    from filelock import FileLock, Timeout

    held = FileLock(lock, timeout=0, mode=0o600)
    try:
        held.acquire()
    except Timeout as error:
        raise FileExistsError(f"another process is writing {path}: choose another folder, or wait for it to end") from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # while it is held: nobody waits for it, and filelock sees a file that is gone
        held.release()


def as_os_error(error: Exception) -> OSError | None:
    """The error of the operating system that a library not written in Python states in its message alone, as in
    "I/O error: No space left on device (os error 28)"; None where there is none."""
    if isinstance(error, OSError):
        return error
    _, found, rest = str(error).partition("(os error ")
    number: Any = rest.partition(")")[0]
    return OSError(int(number), os.strerror(int(number))) if found and number.isdigit() else None
