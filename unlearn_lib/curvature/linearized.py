r"""Operators that keep what does not depend on the vector, for solvers that multiply many times at the same parameters.

    Hessian       the graph of the gradient is kept: H v is one backward pass through it          3.0 -> 2.0 gradients a product
    GaussNewton   the graphs of J^T w (linear in w, so its derivative in w is J) and of the logits   2.0 -> 1.33
    Fisher        the factors of the per-sequence gradients (`SequenceGradients`)                      2.0 -> 0.67

The price is memory, of all batches at once, until the operator is dropped: the activations of the forward pass (Fisher: input
and output gradient of every product), and for the first two those of the backward pass as well, about three times what a
gradient needs.
"""

from __future__ import annotations

from unlearn_lib.curvature.gauss_newton import GaussNewton
from unlearn_lib.curvature.hessian import Hessian
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.per_sequence import SequenceGradients
from unlearn_lib.curvature.risk import EmpiricalRisk
from unlearn_lib.curvature.vector import Vector, total


class _Kept(Operator):
    """What the three share: the risk whose graphs are kept."""

    def __init__(self, risk: EmpiricalRisk) -> None:
        self.risk, self.params = risk, risk.params

    @property
    def gradient_flops(self) -> int:
        return self.risk.gradient_flops


class LinearizedHessian(_Kept):
    """The Hessian from kept graphs. To prepare: 1 gradient; a product: 2 gradients."""

    def __init__(self, hessian: Hessian) -> None:
        super().__init__(hessian)
        self._graphs = [hessian.gradient_graph(batch) for batch in hessian.batches]

    def mv(self, v: Vector) -> Vector:
        return total(graph.product(v, keep=True) for graph in self._graphs)


class LinearizedGaussNewton(_Kept):
    """The Gauss-Newton matrix from kept graphs. To prepare: 1 gradient; a product: 4/3 gradient."""

    def __init__(self, gauss_newton: GaussNewton) -> None:
        super().__init__(gauss_newton)
        self._graphs = [gauss_newton.logits_graph(batch) for batch in gauss_newton.batches]

    def mv(self, v: Vector) -> Vector:
        return total(graph.product(v) for graph in self._graphs)


class LinearizedFisher(_Kept):
    """The empirical Fisher from kept factors. To prepare: 2/3 gradient; a product: 2/3 gradient."""

    def __init__(self, gradients: SequenceGradients) -> None:
        super().__init__(gradients.risk)
        self._gradients = gradients

    def mv(self, v: Vector) -> Vector:
        return self._gradients.adjoint(self._gradients.project(v) / self._gradients.n)
