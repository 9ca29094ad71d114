"""What every command shares: errors as one line and an exit code, and lines for the user."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from unlearn_lib.errors import HubUnavailableError, InputError, NumericsError, RankLostError
from unlearn_lib.files import KeptError, shown
from unlearn_lib.launched import place, speaks


def plain_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the library's errors into one line on stderr and an exit code, without a traceback."""

    @wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a locale that lacks a letter of a name or a text stops nothing
        try:
            command(*args, **kwargs)
        except (InputError, HubUnavailableError) as error:
            say(str(error.args[0]))
            sys.exit(2)
        except (NumericsError, KeptError, RankLostError) as error:
            say(str(error))
            sys.exit(3)
        except MemoryError:
            click.echo(
                "unlearn: out of memory; use a smaller --batch-size, --batch-tokens or --max-length, and look at --plan. "
                "Nothing was written.",
                err=True,
            )
            sys.exit(3)
        except OSError as error:
            if error.errno is None:
                raise
            say(f"{error.strerror} ({error.filename or 'while writing'}); nothing was written")
            sys.exit(3 if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG) else 2)
        except KeyboardInterrupt:
            click.echo("unlearn: interrupted; nothing was written", err=True)
            sys.exit(130)

    return wrapper


def say(message: str) -> None:
    """An error, as one line on stderr; of several processes with the number of the one that has it."""
    click.echo(f"unlearn{place()}: {' '.join(shown(message).splitlines())}", err=True)


def tell(line: str) -> None:
    """A line for the user while results are being made, from one process. That nobody reads it any more (`| head`) does not stop
    the work."""
    if not speaks():
        return
    try:
        click.echo(shown(line))
    except OSError:
        with contextlib.suppress(OSError):  # what is said from now on, and at the end of the process, goes nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
