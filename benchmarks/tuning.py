"""Coordinate search on ladders of option values, which ends only where every neighbour was tried and is worse.

A grid that is laid out beforehand can have its best value in a corner, and then says nothing of what lies beyond. This search
starts at one place, tries the next smaller and the next larger value of every option, goes to the best, and ends where none is better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Place = dict[str, float]
Look = Callable[[Place], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Ladder:
    """The values of an option in increasing order, and the one to start from. `lowest` says that the option has no smaller value."""

    values: tuple[float, ...]
    start: float
    lowest: bool = False

    def beside(self, value: float) -> tuple[float | None, float | None]:
        """The next smaller and the next larger value, None where the ladder ends."""
        at = self.values.index(value)
        return (self.values[at - 1] if at else None), (self.values[at + 1] if at + 1 < len(self.values) else None)


@dataclass(frozen=True)
class Row:
    """One line of a table: a method, its fixed options, and the ladders that tuning chooses from."""

    label: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    ladders: dict[str, Ladder] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """What a search has come to: `missing` places to look at before it can go on, `tried` in the order of its steps, and, when nothing is
    missing, the `best`, with the options whose ladder ends there."""

    missing: tuple[Place, ...]
    tried: tuple[Place, ...]
    best: Place | None = None
    ends: tuple[str, ...] = ()


def search(ladders: Mapping[str, Ladder], look: Look, score: Callable[[Mapping[str, Any]], Any]) -> Found:
    """Go from the start to the lowest score, as far as what is known allows.

    Args:
        ladders: The options.
        look: The result at a place, None where it is not known yet.
        score: Of a result; the lowest wins, and of equal ones the place where the search stands.
    """
    place = {name: ladder.start for name, ladder in ladders.items()}
    tried: list[Place] = []
    while True:
        around = [place]
        for name, ladder in ladders.items():
            around += [{**place, name: value} for value in ladder.beside(place[name]) if value is not None]
        tried += [other for other in around if other not in tried]
        known = [look(other) for other in around]
        if missing := [other for other, result in zip(around, known, strict=True) if result is None]:
            return Found(tuple(missing), tuple(tried))
        scores = [score(result) for result in known if result is not None]
        best = around[scores.index(min(scores))]
        if best == place:
            return Found((), tuple(tried), best, tuple(name for name, ladder in ladders.items() if _at_end(ladder, best[name])))
        place = best


def score(result: Mapping[str, Any], share: float | None = None, *, retraining: float) -> tuple[bool, float]:
    """The lowest damage outside among those that reach the goal within the share of retraining's cost; where none does, what comes
    nearest to the goal, or to the cost."""
    if not result["reached"]:
        return True, 1e6 - result["forget_loss"]
    cost = result["cost"] / retraining
    return (True, cost) if share is not None and cost > share else (False, result["damage_ratio"])


def _at_end(ladder: Ladder, value: float) -> bool:
    smaller, larger = ladder.beside(value)
    return larger is None or (smaller is None and not ladder.lowest)
