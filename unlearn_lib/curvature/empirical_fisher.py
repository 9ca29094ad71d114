r"""The empirical Fisher: (1/n) sum_i g_i g_i^T, with g_i the gradient of sequence i's loss: one rank-1 term for every **sequence**.

(One term for every token, which some libraries call by the same name, is another matrix.) G is the n x P matrix of the g_i; it is
never formed: G v is one forward-mode pass, G^T c one backward pass of a weighted loss.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from unlearn_lib.curvature.operator import Derived, Operator
from unlearn_lib.curvature.per_sequence import SequenceGradients
from unlearn_lib.curvature.risk import EmpiricalRisk
from unlearn_lib.curvature.symmetric import add_lower, mirror
from unlearn_lib.curvature.vector import Vector, flatten


class EmpiricalFisher(EmpiricalRisk):
    """Positive semi-definite, of rank at most n. A product costs 2 gradients; `gradients().gram()` serves many at once."""

    def mv(self, v: Vector) -> Vector:
        return self.adjoint(self.project(v) / self.sequences)

    def gradients(self, **options: Any) -> SequenceGradients:
        """G in factored form; the options are those of `SequenceGradients`."""
        return SequenceGradients(self, **options)

    def linearize(self) -> Operator:
        return LinearizedFisher(self.gradients())

    def as_matrix(self) -> Tensor:
        self.check_size()
        g_nP = self.gradients().matrix()
        matrix_PP = g_nP.new_zeros(self.size, self.size)
        add_lower(matrix_PP, g_nP.T)
        return mirror(matrix_PP).div_(self.sequences)

    def diagonal(self) -> Tensor:
        """`[P]`: (1/n) sum_i g_i^2. Costs 1 gradient."""
        return flatten(self.gradients().squares()) / self.sequences


class LinearizedFisher(Derived):
    """The empirical Fisher from the kept factors of the per-sequence gradients: input and output gradient of every product.

    To prepare it costs 2/3 gradient; a product costs 2/3 gradient instead of 2.
    """

    def __init__(self, gradients: SequenceGradients) -> None:
        super().__init__(gradients.risk)
        self._gradients = gradients

    def mv(self, v: Vector) -> Vector:
        return self._gradients.adjoint(self._gradients.project(v) / self._gradients.n)
