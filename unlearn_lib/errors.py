"""The library's own errors. Each message says what happened, why, and what to change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class InputError(ValueError):
    """Bad input or options: an unknown name, a malformed file, a method whose needs are not met."""


class HubUnavailableError(OSError):
    """Something has to come from the Hugging Face hub, which cannot be reached, and is not in the local cache."""


class NumericsError(ArithmeticError):
    """The numbers cannot be trusted: a non-finite loss, gradient or step."""


class RankLostError(ConnectionError):
    """One of several processes that computed together has ended before the others."""


def unknown(kind: str, name: object, valid: Iterable[str]) -> InputError:
    """One sentence for every unknown name, with the valid ones."""
    return InputError(f"unknown {kind} {str(name)!r}; choose one of: {', '.join(valid)}")


LONGEST = 400
"""The most characters of another library's message that are shown: some quote a whole file."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message, with the next one where it only announces that; the error's name where it says nothing."""
    if isinstance(error, KeyError):
        return f"{error} is not known or not there"
    lines = [line.strip() for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
    found = " ".join(lines[:2]) if lines[0].endswith(":") and len(lines) > 1 else lines[0]
    return found if len(found) <= LONGEST else f"{found[:LONGEST]}..."


def wrong_in(error: ValidationError) -> str:
    """What is wrong with data that a typed model was read from: the first thing found, and the place in the data where it stands."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else str(first["msg"])
