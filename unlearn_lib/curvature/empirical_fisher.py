r"""The empirical Fisher: (1/n) sum_i g_i g_i^T, with g_i the gradient of sequence i's loss: one rank-1 term for every **sequence**.

(One term for every token, which some libraries call by the same name, is another matrix.) G is the n x P matrix of the g_i; it is
never formed: G v is one forward-mode pass, G^T c one backward pass of a weighted loss.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import jvp, vjp

from unlearn_lib.curvature.risk import EmpiricalRisk
from unlearn_lib.curvature.vector import Vector, total
from unlearn_lib.losses import Batch


class EmpiricalFisher(EmpiricalRisk):
    """Positive semi-definite, of rank at most n. A product costs 2 gradients."""

    @torch.no_grad()
    def mv(self, v: Vector) -> Vector:
        return self.adjoint(self.project(v) / self.sequences)

    @torch.no_grad()
    def project(self, v: Vector) -> Tensor:
        """`[n]`: G v, the directional derivatives g_i^T v. Costs 1 gradient."""
        return torch.cat([jvp(self.losses(batch), (self.params,), (v,))[1] for batch in self.batches])

    @torch.no_grad()
    def adjoint(self, c_n: Tensor) -> Vector:
        """G^T c, the combination sum_i c_i g_i. Costs 1 gradient."""
        pieces = c_n.split([len(batch["labels"]) for batch in self.batches])
        return total(self._adjoint(batch, c_B) for batch, c_B in zip(self.batches, pieces, strict=True))

    def _adjoint(self, batch: Batch, c_B: Tensor) -> Vector:
        value_B, pullback, *_ = vjp(self.losses(batch), self.params)
        combination: Vector = pullback(c_B.to(value_B))[0]
        return combination
