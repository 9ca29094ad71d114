"""What the solvers on per-sequence gradients share: the options of `SequenceGradients`, and what taking them needs.

Shape suffixes: n sequences, P parameters.
"""

from __future__ import annotations

import copy
from abc import ABC
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from unlearn_lib.curvature.empirical_fisher import EmpiricalFisher
from unlearn_lib.curvature.per_sequence import SequenceGradients, groups
from unlearn_lib.curvature.rehearsal import Rehearsal
from unlearn_lib.curvature.solvers.base import Solver
from unlearn_lib.curvature.uses import as_matrix
from unlearn_lib.errors import InputError
from unlearn_lib.ranks import ALONE

ROUNDED_REFINEMENTS = 10
"""The most refinements of a solve by rounded factors."""


@dataclass(frozen=True)
class Budget:
    """What per-sequence gradients need.

    Attributes:
        taking: Peak bytes while they are taken, what stays included.
        kept: Bytes that stay while they are used.
        block: Bytes of one block of columns, which is formed from what is kept.
        columns: Numbers in that block.
        flops: FLOPs of taking them, and of forming all of them once.
        product: FLOPs of one more G v or G^T c.
        again: FLOPs of taking them once more, batch by batch.
        anew: Peak bytes of an exact product from one batch after the other, with the vector and the product.
    """

    taking: float
    kept: float
    block: float
    columns: int
    flops: float
    product: float
    again: float
    anew: float


@dataclass(frozen=True, kw_only=True)
class GradientSolver(Solver, ABC):
    """A solver on per-sequence gradients.

    Args:
        damping: lambda.
        keep, passes, chunk: What of the gradients is kept, see `SequenceGradients`: `"activations"` (input and output gradient of
            every product), `"gradients"` (n P numbers; each further product is nearly free) or `"nothing"` with `passes`.
        factors: `"float32"`, or `"bfloat16"`: kept factors take half the memory, each rounded by a relative 2^-8 at most, about 2^-9 in
            the mean. The residual is that of exact products nonetheless, of gradients captured anew batch by batch, so that it shows
            what the rounding does; refinements then bring it down, where the damping is not far below the rounding of the largest
            eigenvalue. For the inverse alone: the residual of another power would be made of rounded factors.
    """

    keep: str = "activations"
    passes: int = 1
    chunk: int | None = None
    factors: str = "float32"

    @property
    def takes_gradients(self) -> bool:
        """Whether an option about the gradients is given."""
        return (self.keep, self.passes, self.chunk, self.factors) != ("activations", 1, None, "float32")

    def gradients(self, fisher: EmpiricalFisher) -> SequenceGradients:
        """The gradients with the solver's options."""
        return fisher.gradients(keep=self.keep, passes=self.passes, chunk=self.chunk, factors=self.factors)

    def budget(self, rehearsal: Rehearsal) -> Budget:
        """What `gradients` needs, from the rehearsal of one capture."""
        return budget(self.gradients(self.planned_fisher(rehearsal)), rehearsal)


def budget(gradients: SequenceGradients, rehearsal: Rehearsal) -> Budget:
    """What per-sequence gradients need, from the rehearsal of one capture."""
    risk, captured, n = rehearsal.risk, rehearsal.capture, gradients.n
    number, unrounded = risk.dtype.itemsize, max(1, sum(captured.kept.values()))
    size = 1.0 if gradients.factors == "float32" else captured.rounded / unrounded
    factors, largest = size * sum(captured.kept.values()), size * captured.largest
    columns = max(_block_numbers(gradients, p) for p in risk.params.values())
    # several processes send each other pieces: a copy of what is sent, and one of what is received
    copies = 4 if risk.ranks.size > 1 else 2 if len(risk.batches) > 1 else 1
    block = columns * number * copies
    flops, product = captured.capture_flops + captured.product_flops, captured.product_flops
    again, vector = captured.capture_flops, risk.size * number
    anew = max(captured.peak + (2 if len(risk.batches) > 1 else 1) * vector, captured.largest + 4 * vector)
    # where the last batch's factors are rounded, they are there in both formats
    peak = captured.peak if size == 1.0 else max(captured.peak, captured.largest + largest)
    taking: float = factors - largest + peak
    if gradients.keep == "nothing":
        parts = [sum(captured.kept[name] for name in group) for group in groups(risk.params, gradients.passes)]
        share = max(parts) / unrounded
        taking = peak + share * (factors - largest)
        flops = len(parts) * captured.capture_flops + captured.product_flops
        return Budget(taking, share * factors, block, columns, flops, risk.gradient_flops, again, anew)
    if gradients.keep == "gradients":
        stored = (risk.share.own.stop - risk.share.own.start) * risk.size * number
        rows = max(p.numel() for p in risk.params.values()) * n * number
        return Budget(max(taking, factors + rows, stored), stored, block, columns, flops, 2 * n * risk.size, again, anew)
    return Budget(taking, factors, block, columns, flops, product, again, anew)


def by_batches(gradients: SequenceGradients) -> Iterator[SequenceGradients]:
    """The gradients of one batch of this process after the other, with factors in full. Costs 2/3 gradient, and one batch's memory."""
    for batch in gradients.risk.share.batches:
        one = copy.copy(gradients.risk)
        one.ranks, one.batches, one.share = ALONE, [batch], ALONE.share([batch])
        one.sequences = one.share.texts
        yield SequenceGradients(one, chunk=gradients.chunk)


def refuse_rounded(gradients: SequenceGradients, exponent: float) -> None:
    """Refuse powers other than the inverse and the product itself where factors are rounded.

    Raises:
        InputError: It is another power.
    """
    if gradients.factors != "float32" and exponent not in (-1.0, 1.0):
        raise InputError(
            f"factors='bfloat16' gives the inverse only, not the power {exponent:g}, whose error no product could tell; leave it out"
        )


def _block_numbers(gradients: SequenceGradients, p: Tensor) -> int:
    rows, q = as_matrix(p).shape
    return gradients.n * q * min(rows, gradients.rows_at_once(p))
