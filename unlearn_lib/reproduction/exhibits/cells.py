"""Numbers as the cells of a table show them."""

from __future__ import annotations

import math

import pandas as pd

from unlearn_lib.reproduction.exhibits.intervals import Interval

NO_BREAK = "\u00a0"


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
