"""The operator's diagonal instead of the operator: x_j = (A_jj + lambda)^p v_j."""

from __future__ import annotations

from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.solvers.base import Inverse
from unlearn_lib.curvature.vector import Vector, unflatten
from unlearn_lib.errors import NumericsError


class Diagonal(Inverse):
    """Inverse and powers of the diagonal. Cost: one diagonal (1 gradient for the Fisher; P products for Hessian and Gauss-Newton)."""

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
