"""The rule of the verdicts: a claim is judged by comparisons, each an interval beside the region that the claim allows.

A comparison is supported if its whole 95 % interval lies inside the claimed region, contradicted if the whole interval lies
outside, and undecided if the interval holds both. A claim with several comparisons is contradicted if one of them is, supported if
all are, and undecided otherwise. So a claim of "no change" needs its interval inside a margin, and more noise never helps a claim.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from unlearn_lib.reproduction.evidence import Effect, Evidence
from unlearn_lib.reproduction.intervals import Interval, text


class Verdict(StrEnum):
    """What became of a claim."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    NOT_TESTABLE = "not testable"


class Judgement(NamedTuple):
    """A verdict, and the numbers or the reason behind it in words."""

    verdict: Verdict
    effect: str


@dataclass(frozen=True)
class Claim:
    """One claim: what it says, where, the id of the notebook, and how it is judged from the records."""

    words: str
    page: str
    notebook: str
    judge: Callable[[Evidence], Judgement]


def claim(page: str, notebook: str) -> Callable[[Callable[[Evidence], Judgement]], Claim]:
    """Make a claim of the function that judges it; what it says is the function's docstring."""
    return lambda judge: Claim(inspect.cleandoc(judge.__doc__ or ""), page, notebook, judge)


@dataclass(frozen=True)
class Comparison:
    """One comparison: what was measured, its interval, and the open region that the claim allows it.

    Attributes:
        what: In words.
        found: (mean, low, high); NaN for bounds that are not known, three equal numbers for a count without noise.
        low, high: The claimed region, its ends excluded.
        unit: Of the numbers.
        digits, signed: How they are written.
        theirs: The paper's interval, or words about its numbers, where it prints them.
    """

    what: str
    found: Interval
    low: float = -math.inf
    high: float = math.inf
    unit: str = ""
    digits: int = 2
    signed: bool = True
    theirs: Interval | str | None = None

    @property
    def verdict(self) -> Verdict:
        """By the rule above."""
        _, low, high = self.found
        if self.low < low and high < self.high:
            return Verdict.SUPPORTED
        if high <= self.low or low >= self.high:
            return Verdict.CONTRADICTED
        return Verdict.UNDECIDED

    def __str__(self) -> str:
        region = (
            f"above {self._number(self.low)}"
            if self.high == math.inf
            else f"below {self._number(self.high)}"
            if self.low == -math.inf
            else f"between {self._number(self.low)} and {self._number(self.high)}"
        )
        theirs = self.theirs if isinstance(self.theirs, str | None) else self._written(self.theirs)
        paper = f"; paper {theirs}" if theirs else ""
        return f"{self.what} {self._written(self.found)}{self.unit and ' ' + self.unit} (claimed: {region}{paper})"

    def _number(self, value: float) -> str:
        return f"{value:+g}" if self.signed and value else f"{value:g}"

    def _written(self, found: Interval) -> str:
        mean, low, high = found
        words = text((mean, math.nan, math.nan) if low == high else found, self.digits)
        return words if self.signed else words.replace("+", "")


def below(what: str, effect: Effect, unit: str, limit: float = 0.0, digits: int = 2) -> Comparison:
    """A claim that a mean effect is lower than a limit."""
    return Comparison(f"{what}, {effect.cells} cells:", effect.ours, high=limit, unit=unit, digits=digits, theirs=effect.paper)


def above(what: str, effect: Effect, unit: str, limit: float = 0.0, digits: int = 2) -> Comparison:
    """A claim that a mean effect is higher than a limit."""
    return Comparison(f"{what}, {effect.cells} cells:", effect.ours, low=limit, unit=unit, digits=digits, theirs=effect.paper)


def within(what: str, effect: Effect, unit: str, margin: float, centre: float = 0.0) -> Comparison:
    """A claim that a mean effect equals a value up to a margin."""
    return Comparison(
        f"{what}, {effect.cells} cells:", effect.ours, centre - margin, centre + margin, unit=unit, theirs=effect.paper
    )


def judged(comparisons: Sequence[Comparison], note: str = "") -> Judgement:
    """The verdict on a claim that needs all of these comparisons; `note` is added to the numbers."""
    found = {comparison.verdict for comparison in comparisons}
    if Verdict.CONTRADICTED in found:
        verdict = Verdict.CONTRADICTED
    else:
        verdict = Verdict.SUPPORTED if found == {Verdict.SUPPORTED} else Verdict.UNDECIDED
    return Judgement(verdict, "; ".join([*map(str, comparisons), *([note] if note else [])]))


def untestable(reason: str, seen: Sequence[tuple[str, Effect]] = (), unit: str = "") -> Judgement:
    """A claim that these records cannot test: why, and what was seen all the same."""
    parts = [
        f"{what} {text(effect.ours)} {unit}" + (f" (paper {text(effect.paper)})" if effect.paper else "")
        for what, effect in seen
    ]
    return Judgement(Verdict.NOT_TESTABLE, reason + (f"; seen at our lengths: {'; '.join(parts)}" if parts else ""))
