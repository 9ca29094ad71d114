r"""The prepared inverse: a damped operator raised to a power, applied, verified and refined.

A direct solver knows x = M^p v for M = A + damping I and any exponent p it supports. The residual is that of the way back,
r = v - M^(-p) x, and a refinement step is x + M^p r. For p = -1 that is the residual of the linear system, by the operator's
own product.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch

from unlearn_lib.curvature.operator import Derived, Operator
from unlearn_lib.curvature.solution import Reason
from unlearn_lib.curvature.vector import Vector, add, axpy, norm, scale
from unlearn_lib.errors import NumericsError

TOLERANCE = {torch.float32: 3e-5, torch.float64: 1e-9}
# below this condition number's inverse an inverse in this format has no correct digit left
WORST_CONDITION = 0.1


class Inverse(Derived):
    """(A + damping I)^-1 as an operator, which does its work at its first use and may then be applied often, for example as a
    preconditioner. A solver makes it (`Solver.prepare`, or `unlearn_lib.curvature.invert`)."""

    most_refinements = 1

    def __init__(self, operator: Operator, damping: float) -> None:
        super().__init__(operator)
        self.damping = damping

    @property
    def system(self) -> str:
        """The system that is solved."""
        return f"{type(self.of).__name__} + {self.damping:g} I"

    @abstractmethod
    def power(self, v: Vector, exponent: float) -> Vector:
        """(A + damping I)^exponent v."""

    def mv(self, v: Vector) -> Vector:
        return self.power(v, -1.0)

    def run(self, v: Vector, exponent: float, tolerance: float | None) -> tuple[Vector, Reason, int, float]:
        """Solve, verify, refine where the tolerance asks for it, as long as it helps: `(x, reason, refinements, residual)`."""
        tolerance = tolerance or TOLERANCE[self.dtype]
        length = norm(v)
        if length == 0:
            return scale(0.0, v), Reason.CONVERGED, 0, 0.0
        x = self.power(v, exponent)
        r = axpy(-1.0, self.power(x, -exponent), v)
        residual, refinements = norm(r) / length, 0
        for _ in range(self.most_refinements):
            if not tolerance < residual < 1:
                break
            better = add(x, self.power(r, exponent))
            r = axpy(-1.0, self.power(better, -exponent), v)
            refined = norm(r) / length
            if not refined < residual:
                break
            x, residual, refinements = better, refined, refinements + 1
        if not math.isfinite(residual):
            return x, Reason.BREAKDOWN, refinements, residual
        return x, Reason.CONVERGED if residual <= tolerance else Reason.PRECISION, refinements, residual

    def check_damping(self, largest: float) -> None:
        """Refuse a damping at which the number format has no digits left, given the largest eigenvalue.

        Raises:
            NumericsError: The condition number largest / damping exceeds 0.1 / eps.
        """
        least = largest * torch.finfo(self.dtype).eps / WORST_CONDITION
        if self.damping < least:
            wider = " or ask for precision='float64'" if self.dtype == torch.float32 else ""
            name = str(self.dtype).removeprefix("torch.")
            raise NumericsError(
                f"damping {self.damping:g} is too small for {name}: the largest eigenvalue is {largest:.3g}, "
                f"so no digit of the inverse would be right; use a damping of at least {least:.1e}{wider}"
            )
