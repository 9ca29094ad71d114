"""What the solvers on per-sequence gradients share: the options of `SequenceGradients`, and what taking them needs.

Shape suffixes: n sequences, P parameters.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass

from torch import Tensor

from unlearn_lib.curvature.empirical_fisher import EmpiricalFisher
from unlearn_lib.curvature.per_sequence import SequenceGradients, groups
from unlearn_lib.curvature.rehearsal import Rehearsal
from unlearn_lib.curvature.solvers.base import Solver
from unlearn_lib.curvature.uses import as_matrix


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
    """

    taking: float
    kept: float
    block: float
    columns: int
    flops: float
    product: float


@dataclass(frozen=True, kw_only=True)
class GradientSolver(Solver, ABC):
    """A solver on per-sequence gradients.

    Args:
        damping: lambda.
        keep, passes, chunk: What of the gradients is kept, see `SequenceGradients`: `"activations"` (input and output gradient of
            every product), `"gradients"` (n P numbers; each further product is nearly free) or `"nothing"` with `passes`.
    """

    keep: str = "activations"
    passes: int = 1
    chunk: int | None = None

    @property
    def takes_gradients(self) -> bool:
        """Whether an option about the gradients is given."""
        return (self.keep, self.passes, self.chunk) != ("activations", 1, None)

    def gradients(self, fisher: EmpiricalFisher) -> SequenceGradients:
        """The gradients with the solver's options."""
        return fisher.gradients(keep=self.keep, passes=self.passes, chunk=self.chunk)

    def budget(self, rehearsal: Rehearsal) -> Budget:
        """What `gradients` needs, from the rehearsal of one capture."""
        return budget(self.gradients(self.planned_fisher(rehearsal)), rehearsal)


def budget(gradients: SequenceGradients, rehearsal: Rehearsal) -> Budget:
    """What per-sequence gradients need, from the rehearsal of one capture."""
    risk, captured, n = rehearsal.risk, rehearsal.capture, gradients.n
    number, factors = risk.dtype.itemsize, sum(captured.kept.values())
    columns = max(_block_numbers(gradients, p) for p in risk.params.values())
    # several processes send each other pieces: a copy of what is sent, and one of what is received
    copies = 4 if risk.ranks.size > 1 else 2 if len(risk.batches) > 1 else 1
    block = columns * number * copies
    flops, product = captured.capture_flops + captured.product_flops, captured.product_flops
    taking: float = factors - captured.largest + captured.peak
    if gradients.keep == "nothing":
        parts = [sum(captured.kept[name] for name in group) for group in groups(risk.params, gradients.passes)]
        share = max(parts) / max(1, factors)
        taking = captured.peak + share * (factors - captured.largest)
        flops = len(parts) * captured.capture_flops + captured.product_flops
        return Budget(taking, share * factors, block, columns, flops, risk.gradient_flops)
    if gradients.keep == "gradients":
        stored = (risk.share.own.stop - risk.share.own.start) * risk.size * number
        rows = max(p.numel() for p in risk.params.values()) * n * number
        return Budget(max(taking, factors + rows, stored), stored, block, columns, flops, 2 * n * risk.size)
    return Budget(taking, factors, block, columns, flops, product)


def _block_numbers(gradients: SequenceGradients, p: Tensor) -> int:
    rows, q = as_matrix(p).shape
    return gradients.n * q * min(rows, gradients.rows_at_once(p))
