"""The length at which a loss along a direction takes a given value, by the secant rule: a few evaluations, where bisection takes dozens."""

from __future__ import annotations

import math
from collections.abc import Callable

TRIES = 12
GROWTH = 3.0
"""A length grows at most to so many times the largest one tried."""


def reach(
    loss_at: Callable[[float], float], at_zero: float, goal: float, first: float, tolerance: float
) -> tuple[float, float, bool]:
    """Find a length x with loss_at(x) = goal, from x = 0 on.

    Args:
        loss_at: The loss at a length, which may be infinite.
        at_zero: loss_at(0), known.
        goal: The value wanted.
        first: The first length to try; its sign says which way.
        tolerance: How far from the goal is near enough.

    Returns:
        `(x, loss_at(x), whether it is near enough)`, of the last length that was tried, or of the nearest one where none is near
        enough (`loss_at` was called with it last). Cost: 1 to 13 calls, 2 or 3 where the loss is smooth.
    """
    if abs(at_zero - goal) <= tolerance or first == 0:
        return 0.0, at_zero, abs(at_zero - goal) <= tolerance
    tried = [(0.0, at_zero)]
    x = first
    for _ in range(TRIES):
        loss = loss_at(x)
        tried.append((x, loss))
        if abs(loss - goal) <= tolerance:
            return x, loss, True
        x = _next(tried, goal)
        if any(x == other for other, _ in tried):
            break
    x, loss = min(tried, key=lambda pair: abs(pair[1] - goal))
    if x != tried[-1][0]:
        loss = loss_at(x)
    return x, loss, False


def _next(tried: list[tuple[float, float]], goal: float) -> float:
    """The next length: between two that enclose the goal, by interpolation kept off their ends; else by the secant, not too far."""
    below = [pair for pair in tried if pair[1] < goal]
    above = [pair for pair in tried if pair[1] >= goal]
    last, loss = tried[-1]
    if below and above:
        (low, l_low), (high, l_high) = min(
            ((a, b) for a in below for b in above), key=lambda pair: abs(pair[0][0] - pair[1][0])
        )
        share = (goal - l_low) / (l_high - l_low) if math.isfinite(l_high) else 0.5
        return low + min(max(share, 0.1), 0.9) * (high - low)
    before, l_before = tried[-2]
    slope = (loss - l_before) / (last - before)
    furthest = max((x for x, _ in tried), key=abs)
    wanted = last + (goal - loss) / slope if slope else 2 * furthest
    if not math.isfinite(wanted) or wanted * furthest < 0:  # the loss turned: go on the way that was begun
        wanted = 2 * furthest
    return math.copysign(min(abs(wanted), GROWTH * abs(furthest)), furthest)
