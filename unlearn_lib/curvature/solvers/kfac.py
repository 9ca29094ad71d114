"""The inverse, and any power, of a K-FAC operator plus damping: exact, by its eigenvalues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unlearn_lib.curvature.kfac import KFAC
from unlearn_lib.curvature.kfac_cost import kfac_cost
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.rehearsal import Rehearsal
from unlearn_lib.curvature.solvers.base import Solver
from unlearn_lib.curvature.solvers.inverse import Inverse
from unlearn_lib.curvature.vector import Vector
from unlearn_lib.errors import InputError


@dataclass(frozen=True)
class Kronecker(Solver):
    """(KFAC + damping I)^p.

    Args:
        damping: lambda > 0.

    Cost: an application takes 4 p q (p + q) FLOPs for each p x q matrix, and the first one builds the operator as well, which is nearly
    all of it, and is done once however often it is inverted.
    """

    name: ClassVar[str] = "kfac"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.damping == 0:
            raise InputError("the kfac solver needs damping > 0: an estimate from few sequences is singular")

    def prepare(self, operator: Operator) -> Inverse:
        return KroneckerInverse(self._kfac(operator), self.damping)

    def cost(self, rehearsal: Rehearsal) -> tuple[float, float]:
        """What building takes (`kfac_cost`), and an application and its check."""
        K = self._kfac(rehearsal.risk)
        building = kfac_cost(K, rehearsal)
        return max(building.peak, building.kept + 3 * K.size * K.dtype.itemsize), building.flops + 2 * building.product_flops

    def _kfac(self, operator: Operator) -> KFAC:
        if not isinstance(operator, KFAC):
            raise InputError(f"the kfac solver inverts a KFAC operator, not a {type(operator).__name__}")
        return operator


class KroneckerInverse(Inverse):
    """Inverse and powers of a K-FAC operator by its eigenvalues."""

    def __init__(self, operator: KFAC, damping: float) -> None:
        super().__init__(operator, damping)
        self._kfac = operator

    def power(self, v: Vector, exponent: float) -> Vector:
        return {name: e.apply(v[name], (e.values_pq + self.damping) ** exponent) for name, e in self._kfac.eigen().items()}
