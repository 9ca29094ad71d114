"""What building K-FAC takes, from the rehearsal of one capture of its texts.

Shape suffixes: p x q a parameter, s one of its sides, S positions of a use.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

from unlearn_lib.curvature.confirm import unconfirmed
from unlearn_lib.curvature.kfac import KFAC
from unlearn_lib.curvature.moments import WIDE, moment_panels
from unlearn_lib.curvature.positions import heard
from unlearn_lib.curvature.rehearsal import Rehearsal
from unlearn_lib.curvature.uses import Direct, Lookup, Outer, as_matrix, place_of
from unlearn_lib.curvature.vector import numbers
from unlearn_lib.shards import gathered_bytes


@dataclass(frozen=True)
class Building:
    """What a K-FAC operator takes until it is ready, witness included: FLOPs, and those of them that do not grow with the texts; peak
    bytes, and the bytes and FLOPs of a product after."""

    flops: float
    once_flops: float
    peak: float
    kept: float
    product_flops: float


def kfac_cost(K: KFAC, rehearsal: Rehearsal) -> Building:
    """FLOPs and bytes of building K-FAC and of one product with it."""
    captured, number, wide = rehearsal.capture, K.dtype.itemsize, 8 if K.correction else K.dtype.itemsize
    tokens = K.samples * sum(batch["input_ids"].numel() for batch in K.batches)
    counted = K.samples * K.positions * sum(numbers(heard(batch).sum() for batch in K.batches)) if K.drops else tokens
    moments: dict[Hashable, int] = {}  # the sides of all that are distinct
    turning = product = diagonals = decomposing = longest = 0
    for name, uses in captured.uses.items():
        factored = [use for use in uses if not isinstance(use, Direct)]
        if len(factored) < len(uses):
            continue
        p, q = as_matrix(K.params[name]).shape
        for side, s in enumerate((p, q)):
            longest = max(longest, s)
            full = [(number, _factor(use, side)) for number, use in enumerate(factored)]
            found = {number: x for number, x in full if x is not None and s <= K.max_side}
            if not found:
                continue
            moments |= {(name, number, side) if K.correction else place_of(x): s for number, x in found.items()}
            product += 4 * p * q * s
            turning += 2 * tokens * s * s * len(found)
            if K.correction or len(factored) > 1:
                diagonals += 2 * s**3 * len(found)
                decomposing = max(decomposing, (3 + (not K.correction)) * 8 * s * s)
            else:
                decomposing = max(decomposing, (20 if s <= WIDE else number) * s * s)
    squares = sum(s * s for s in moments.values())
    formed = (
        squares if K.correction else sum((stop - start) * stop for s in moments.values() for start, stop in moment_panels(s))
    )
    witness = 0 if unconfirmed(K) is None else captured.capture_flops / K.sequences  # as much as a capture of one text
    flops = K.samples * captured.capture_flops + 2 * counted * formed + diagonals + witness
    once = diagonals + witness
    kept = (squares + K.size) * number // (1 if K.correction else K.ranks.size)
    batch = max(batch["input_ids"].numel() for batch in K.batches)
    adding = captured.largest + batch * longest * (number + 8 * K.correction)
    peak = wide * squares + max(captured.peak, adding, decomposing)
    if K.correction:
        flops += K.samples * (captured.capture_flops + captured.product_flops) + turning
        peak = max(peak, kept + captured.peak, kept + captured.largest + max(captured.largest, batch * longest * number))
    if K.ranks.sharded:
        peak += gathered_bytes(K.model)
    return Building(flops, once, peak, kept, product)


def _factor(use: Outer | Lookup, side: int) -> Tensor | None:
    """One side of a use; None for rows that are looked up."""
    if side == 1:
        return use.right_BTq
    return use.left_BTp if isinstance(use, Outer) else None
