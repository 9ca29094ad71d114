r"""The generalised Gauss-Newton matrix: (1/n) sum_i (1/T_i) sum_t J_t^T (diag p_t - p_t p_t^T) J_t.

J_t is the Jacobian of the logits at a scored token, p_t the softmax there: the Hessian without the curvature of the network
itself, equal to the Fisher of the model's own predictions. Shape suffixes: B sequences, S predictions, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import jvp, vjp

from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.risk import EmpiricalRisk, token_weights
from unlearn_lib.curvature.vector import Vector, total
from unlearn_lib.losses import Batch


class GaussNewton(EmpiricalRisk):
    """Positive semi-definite. A product costs 2 gradients: one forward-mode and one reverse pass."""

    @torch.no_grad()
    def mv(self, v: Vector) -> Vector:
        return total(self._product(batch, v) for batch in self.batches)

    def _product(self, batch: Batch, v: Vector) -> Vector:
        logits = self.logits(batch)
        z_BTV, pullback, *_ = vjp(logits, self.params)
        u_BTV = jvp(logits, (self.params,), (v,))[1]
        weights_BS = token_weights(z_BTV, batch, self.sequences).to(z_BTV)
        h_BSV = softmax_hessian(z_BTV[:, :-1].softmax(-1), u_BTV[:, :-1], weights_BS)
        product: Vector = pullback(torch.nn.functional.pad(h_BSV, (0, 0, 0, 1)))[0]
        return product

    def linearize(self) -> Operator:
        from unlearn_lib.curvature.linearized import LinearizedGaussNewton

        return LinearizedGaussNewton(self)


def softmax_hessian(p_BSV: Tensor, u_BSV: Tensor, weights_BS: Tensor) -> Tensor:
    """`[B, S, V]`: the output Hessian of the cross-entropy, diag(p) - p p^T, times u, weighted."""
    return p_BSV * (u_BSV - (p_BSV * u_BSV).sum(-1, keepdim=True)) * weights_BS.unsqueeze(-1)
