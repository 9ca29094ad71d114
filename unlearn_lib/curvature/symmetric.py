"""Symmetric products X X^T: their lower half is formed by panels of rows, and the upper half is its mirror image.

Of k panels of equal height (k + 1) / 2k of the numbers are formed, because the square blocks on the diagonal are formed whole. Shape
suffixes: n rows, c columns.
"""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

PANELS, NARROWEST = 8, 64
"""A product is formed by at most so many panels, each of at least so many rows. On a CPU panels of fewer rows save no time."""


def panels(size: int, most: int = PANELS, narrowest: int = NARROWEST) -> list[tuple[int, int]]:
    """`(start, stop)` of the panels of rows by which the lower half of a symmetric product is formed: `[start:stop, :stop]` of it."""
    number = max(1, min(most, size // narrowest))
    edges = [size * part // number for part in range(number + 1)]
    return list(pairwise(edges))


def formed(size: int) -> int:
    """How many numbers of a symmetric `[size, size]` product are formed, each by 2 FLOPs for every column."""
    return sum((stop - start) * stop for start, stop in panels(size))


def add_lower(total_nn: Tensor, x_nc: Tensor) -> None:
    """Add the lower half of x x^T to a matrix, in place: the product is in the format of x, the sum in that of the matrix.

    The upper half is partly wrong until `mirror` fills it. FLOPs: 2 c `formed(n)`.
    """
    for start, stop in panels(len(x_nc)):
        total_nn[start:stop, :stop] += x_nc[start:stop] @ x_nc[:stop].T


def mirror(lower_nn: Tensor) -> Tensor:
    """The matrix itself, its upper half overwritten by the mirror image of its lower half."""
    for start, stop in panels(len(lower_nn)):
        square = lower_nn[start:stop, start:stop]
        square.copy_(square.tril() + square.tril(-1).T)
        lower_nn[:start, start:stop] = lower_nn[start:stop, :start].T
    return lower_nn
