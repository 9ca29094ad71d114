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
from typing import Any, NamedTuple

from unlearn_lib.reproduction.exhibits.intervals import Interval
from unlearn_lib.reproduction.verdicts.evidence import Effect, Evidence

MARGIN = 2.5
"""Points of accuracy that count as no change."""
NATS = 0.5
"""Nats of exposure that count as no change."""
LESS = 0.9
"""What does at most this share of another's damage does less."""


REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced"
"""The two verdicts of version 0.1.0."""


class Verdict(StrEnum):
    """What became of a claim: one of three classes, or the status that these records cannot test it."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"
    NOT_TESTABLE = "not testable"


@dataclass(frozen=True)
class Finding:
    """What the records say about a claim.

    Attributes:
        line: The finding or the reason in one sentence, or two.
        details: The comparisons with their intervals, and what else there is to be said of them.
    """

    line: str
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join(self.details) or self.line


class Judgement(NamedTuple):
    """A verdict, and the numbers or the reason behind it in words."""

    verdict: Verdict
    effect: Finding


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        words: What it says.
        page: Where the paper says it.
        notebook: The id of the notebook that looks at it.
        judge: How it is judged from the records.
        ours: Whether this repository claims it, and not the paper.
        earlier: Its verdict in version 0.1.0, "reproduced" or "not reproduced"; None where that version did not judge it.
        reason: Why the verdict is another one now, where that is not the usual reason.
    """

    words: str
    page: str
    notebook: str
    judge: Callable[[Evidence], Judgement]
    ours: bool = False
    earlier: str | None = None
    reason: str = ""


class Register:
    """The claims of one file, in the order in which they stand there."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []

    def claim(self, page: str, notebook: str, **more: Any) -> Callable[[Callable[[Evidence], Judgement]], Claim]:
        """Make a claim of the function that judges it; what it says is the function's docstring.

        Args:
            page, notebook: See `Claim`.
            **more: The other attributes of the claim.
        """

        def registered(judge: Callable[[Evidence], Judgement]) -> Claim:
            self.claims.append(Claim(inspect.cleandoc(judge.__doc__ or ""), page, notebook, judge, **more))
            return self.claims[-1]

        return registered


@dataclass(frozen=True)
class Comparison:
    """One comparison: what was measured, its interval, and the open region that the claim allows it.

    Attributes:
        what: In words.
        found: The measured effect; three equal numbers for a count without noise.
        low, high: The claimed region, its ends excluded.
        unit: The unit of the numbers.
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
        """The verdict by the rule above."""
        if self.low < self.found.low and self.found.high < self.high:
            return Verdict.SUPPORTED
        if self.found.high <= self.low or self.found.low >= self.high:
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
        exact = found.low == found.high
        written = Interval(found.mean, math.nan, math.nan) if exact else found
        return written.text(self.digits, signed=self.signed)


def ratio_of(what: str, found: Interval, low: float, high: float, theirs: str = "") -> Comparison:
    """A comparison of a positive quantity, written without signs."""
    return Comparison(what, found, low, high, signed=False, theirs=theirs or None)


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


def judged(comparisons: Sequence[Comparison], line: str, *notes: str) -> Judgement:
    """The verdict on a claim that needs all of these comparisons; `line` says in a sentence what was found, `notes` are added to the
    numbers."""
    found = {comparison.verdict for comparison in comparisons}
    if Verdict.CONTRADICTED in found:
        verdict = Verdict.CONTRADICTED
    else:
        verdict = Verdict.SUPPORTED if found == {Verdict.SUPPORTED} else Verdict.UNDECIDED
    return Judgement(verdict, Finding(line, (*map(str, comparisons), *notes)))


def untestable(line: str, seen: Sequence[tuple[str, Effect]] = (), unit: str = "", note: str = "") -> Judgement:
    """A claim that these records cannot test: why, in a sentence, and what was seen all the same; `note` is added."""
    parts = [
        f"{what} {effect.ours.text()} {unit}" + (f" (paper {effect.paper.text()})" if effect.paper else "")
        for what, effect in seen
    ]
    return Judgement(Verdict.NOT_TESTABLE, Finding(line, (*parts, *([note] if note else []))))
