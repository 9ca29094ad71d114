r"""The generalised Gauss-Newton matrix: (1/n) sum_i (1/T_i) sum_t J_t^T (diag p_t - p_t p_t^T) J_t.

J_t is the Jacobian of the logits at a scored token, p_t the softmax there: the Hessian without the curvature of the network
itself, equal to the Fisher of the model's own predictions. Shape suffixes: B sequences, S predictions, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlearn_lib.curvature.derivatives import JacobianGraph, forward_or_reverse, jvp, vjp
from unlearn_lib.curvature.operator import Derived, Operator
from unlearn_lib.curvature.risk import EmpiricalRisk, token_weights
from unlearn_lib.curvature.vector import Vector
from unlearn_lib.losses import Batch


class GaussNewton(EmpiricalRisk):
    """Positive semi-definite. A product costs 2 gradients: one forward-mode and one reverse pass.

    Where an operation of the model has no forward derivative, it takes two reverse passes and 7/3 gradients; `mode` says so.
    """

    @torch.no_grad()
    def mv(self, v: Vector) -> Vector:
        return self.added(self._product(batch, v) for batch in self.share.batches)

    def _product(self, batch: Batch, v: Vector) -> Vector:
        return forward_or_reverse(
            self, lambda: self._forward_and_reverse(batch, v), lambda: self.logits_graph(batch).product(v)
        )

    def _forward_and_reverse(self, batch: Batch, v: Vector) -> Vector:
        logits = self.logits(batch)
        z_BTV, pullback = vjp(logits, self.params)
        u_BTV = jvp(logits, self.params, v)
        weights_BS = token_weights(z_BTV, batch, self.sequences).to(z_BTV)
        h_BSV = softmax_hessian(z_BTV[:, :-1].softmax(-1), u_BTV[:, :-1], weights_BS)
        return pullback(torch.nn.functional.pad(h_BSV, (0, 0, 0, 1)))

    def logits_graph(self, batch: Batch) -> LogitsGraph:
        """The logits of a batch with their graphs. Costs 1 gradient."""
        return LogitsGraph(self, batch)

    def linearize(self) -> Operator:
        return LinearizedGaussNewton(self)


class LinearizedGaussNewton(Derived):
    """The Gauss-Newton matrix from the kept graphs of the logits and of J^T w, which is linear in w, so that its derivative in w is J.

    To prepare it costs 1 gradient; a product costs 4/3 gradient instead of 2.
    """

    def __init__(self, gauss_newton: GaussNewton) -> None:
        super().__init__(gauss_newton)
        self._added = gauss_newton.added
        self._graphs = [gauss_newton.logits_graph(batch) for batch in gauss_newton.share.batches]

    def mv(self, v: Vector) -> Vector:
        return self._added(graph.product(v) for graph in self._graphs)


class LogitsGraph:
    """The logits of a batch as a graph, through which a product is two backward passes."""

    def __init__(self, gauss_newton: GaussNewton, batch: Batch) -> None:
        self._graph = JacobianGraph(gauss_newton.logits(batch), gauss_newton.params)
        z_BTV = self._graph.value.detach()
        self._p_BSV = z_BTV[:, :-1].softmax(-1)
        self._weights_BS = token_weights(z_BTV, batch, gauss_newton.sequences).to(z_BTV)

    def product(self, v: Vector) -> Vector:
        """The batch's part of the matrix, times v. Costs 4/3 gradient."""
        h_BSV = softmax_hessian(self._p_BSV, self._graph.push(v)[:, :-1], self._weights_BS)
        return self._graph.pull(torch.nn.functional.pad(h_BSV, (0, 0, 0, 1)))


def softmax_hessian(p_BSV: Tensor, u_BSV: Tensor, weights_BS: Tensor) -> Tensor:
    """`[B, S, V]`: the output Hessian of the cross-entropy, diag(p) - p p^T, times u, weighted."""
    return p_BSV * (u_BSV - (p_BSV * u_BSV).sum(-1, keepdim=True)) * weights_BS.unsqueeze(-1)
