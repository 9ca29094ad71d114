"""The inverse, and any power, of a K-FAC operator plus damping: exact, by its eigenvalues."""

from __future__ import annotations

from unlearn_lib.curvature.kfac import KFAC
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.solvers.base import Inverse
from unlearn_lib.curvature.vector import Vector
from unlearn_lib.errors import InputError


class Kronecker(Inverse):
    """(KFAC + damping I)^p. Cost of an application: 4 p q (p + q) FLOPs for each p x q matrix; of the first, building the operator."""

    def __init__(self, operator: Operator, damping: float) -> None:
        super().__init__(operator, damping)
        if not isinstance(operator, KFAC):
            raise InputError(f"the kfac solver inverts a KFAC operator, not a {type(operator).__name__}")
        if damping == 0:
            raise InputError("the kfac solver needs damping > 0: an estimate from few sequences is singular")
        self._kfac = operator

    def power(self, v: Vector, exponent: float) -> Vector:
        return {name: e.apply(v[name], (e.values_pq + self.damping) ** exponent) for name, e in self._kfac.eigen().items()}
