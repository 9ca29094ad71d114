"""The docstring of a method: what it does, and every option that it takes, also those of the classes that it builds on.

Every class says under "Options:" in its docstring what the options mean that it adds, and those that mean something else than in the
class below it. `documented` puts together what holds for a class, with the type and the default of every option as its field has
them, so that `help(FisherRemoval)` shows all of them and none can be out of date.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterable, Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

HEADING = "Options:"
WIDTH = 120
_ENTRY = re.compile(r"(\w+(?:, \w+)*): (.*)")


def split(docstring: str | None) -> tuple[str, dict[str, str]]:
    """`(what the docstring says first, the meaning of each option under its heading)`."""
    said, _, options = inspect.cleandoc(docstring or "").partition(f"\n{HEADING}\n")
    meanings: dict[str, str] = {}
    names: list[str] = []
    for line in textwrap.dedent(options).splitlines():
        if entry := _ENTRY.fullmatch(line):
            names = entry[1].split(", ")
            meanings |= dict.fromkeys(names, entry[2])
        else:
            meanings |= {name: f"{meanings[name]} {line.strip()}" for name in names}
    return said.strip(), meanings


def documented(said: str, fields: Mapping[str, FieldInfo], meanings: Iterable[Mapping[str, str]]) -> str:
    """A docstring with all options of a method.

    Args:
        said: What it says before the options.
        fields: The options.
        meanings: What the options mean, by the class itself and then by the classes that it builds on; the first one holds.
    """
    found: dict[str, str] = {}
    for own in meanings:
        found = {**own, **found}
    lines = [said, "", HEADING] if fields else [said]
    for name, field in fields.items():
        entry = f"{name} ({kind(field.annotation)}, default {shown(field.default)}): {found.get(name, '')}".rstrip()
        lines += textwrap.wrap(entry, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 8, break_on_hyphens=False)
    return "\n".join(lines)


def kind(annotation: Any) -> str:
    """The type of an option in words: `float or "calibrate"`."""
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(kind(part) for part in get_args(annotation))
    if get_origin(annotation) is Literal:
        return " or ".join(shown(value) for value in get_args(annotation))
    return "None" if annotation is type(None) else str(annotation.__name__)


def shown(value: Any) -> str:
    """A value of an option, as a user writes it in Python."""
    return f'"{value}"' if isinstance(value, str) else repr(value)
