"""The operator's diagonal instead of the operator: x_j = (A_jj + lambda)^p v_j."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.rehearsal import Rehearsal
from unlearn_lib.curvature.solvers.base import Solver
from unlearn_lib.curvature.solvers.by_gradients import budget
from unlearn_lib.curvature.solvers.inverse import Inverse
from unlearn_lib.curvature.vector import Vector, unflatten
from unlearn_lib.errors import NumericsError


@dataclass(frozen=True)
class Diagonal(Solver):
    """Inverse and powers of the diagonal.

    Args:
        damping: lambda, large enough that no entry of the damped diagonal is negative or zero.

    Cost: one diagonal, which is 1 gradient of each text for the Fisher, and P products for Hessian and Gauss-Newton.
    """

    name: ClassVar[str] = "diagonal"

    def prepare(self, operator: Operator) -> Inverse:
        return DiagonalInverse(operator, self.damping)

    def cost(self, rehearsal: Rehearsal) -> tuple[float, float]:
        need = budget(self.planned_fisher(rehearsal).gradients(), rehearsal)
        vector = rehearsal.risk.size * rehearsal.risk.dtype.itemsize
        return max(need.taking, need.kept + need.block + 2 * vector), need.flops + rehearsal.witness_flops


class DiagonalInverse(Inverse):
    """Inverse and powers of an operator's diagonal, which is found at the first use."""

    def __init__(self, operator: Operator, damping: float) -> None:
        super().__init__(operator, damping)
        self._diagonal: Vector | None = None

    @property
    def system(self) -> str:
        return f"diagonal of {super().system}"

    def power(self, v: Vector, exponent: float) -> Vector:
        if self._diagonal is None:
            damped = self.of.diagonal() + self.damping
            if not damped.min() > 0:
                raise NumericsError(
                    f"the smallest entry of the damped diagonal is {float(damped.min()):.3g}; raise the damping by more than that"
                )
            self._diagonal = unflatten(damped, self.params)
        return {name: tensor * self._diagonal[name] ** exponent for name, tensor in v.items()}
