"""Numbers as the cells of a table show them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits.intervals import Interval

NO_BREAK = "\u00a0"


def readable(table: pd.DataFrame, methods: Mapping[str, str] = paper.METHODS) -> pd.DataFrame:
    """A table whose index names tasks, families, sizes and methods as a reader knows them: `opt` is shown as `OPT`, `s` as `small`.

    Args:
        table: With levels of its index that are called task, family, size or method; other levels stay as they are.
        methods: The names of the methods.
    """
    names: dict[str, Mapping[str, str]] = {
        "task": paper.TASKS,
        "family": paper.FAMILIES,
        "size": paper.SIZE_NAMES,
        "method": methods,
    }
    for level in table.index.names:
        if level in names:
            table = table.rename(index=dict(names[level]), level=level)
    return table


def model_names(table: pd.DataFrame) -> list[str]:
    """The models of a table's rows, as in `small GPT-Neo`."""
    return [paper.model_name(family, size) for family, size in zip(table.family, table["size"], strict=True)]


def written(value: object, digits: int = 2) -> str:
    """A number to so many digits, a negative zero as zero; a dash where there is none; a count or a word as it is."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    return f"{round(value, digits) + 0.0:.{digits}f}" if isinstance(value, float) else str(value)


def dashed(table: pd.DataFrame, digits: int = 2) -> pd.DataFrame:
    """A table with its numbers `written` to so many digits, and a dash where there is none; counts and words stay as they are."""
    return table.astype(object).map(
        lambda value: written(value, digits) if value is None or isinstance(value, float) else value
    )


def plus_minus(mean: float, sd: float, digits: int = 2) -> str:
    """`-1.20 ± 0.31` with no-break spaces; a negative zero is printed as zero, and one seed has no spread."""
    text = f"{round(mean, digits) + 0.0:+.{digits}f}"
    return text if math.isnan(sd) else f"{text}{NO_BREAK}±{NO_BREAK}{sd:.{digits}f}"


def printed_number(value: float, form: str = "{:+.2f}") -> str:
    """A number of the paper, or a dash where it has none (for a method that is not the paper's)."""
    return "–" if math.isnan(value) else form.format(value)


def cells(table: pd.DataFrame, measure: str, digits: int, sign: bool = True) -> list[str]:
    """The column of a measure: `plus_minus` of its columns `_mean` and `_sd`, without the plus sign where `sign` is false."""
    pairs = zip(table[f"{measure}_mean"], table[f"{measure}_sd"], strict=True)
    return [plus_minus(mean, sd, digits).lstrip("" if sign else "+") for mean, sd in pairs]


def between(found: Interval, most: float) -> str:
    """Mean and interval, cut to what is possible: 0 to `most`; the mean alone where there is no interval, nothing without a mean."""
    if math.isnan(found.mean):
        return ""
    if not found.bounded:
        return f"{found.mean:.1f}"
    return f"{found.mean:.1f}{NO_BREAK}[{max(found.low, 0.0):.1f},{NO_BREAK}{min(found.high, most):.1f}]"
