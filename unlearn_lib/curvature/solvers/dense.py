"""The operator as a dense matrix, by its eigenvalues: for small models, and as the reference of the other solvers."""

from __future__ import annotations

import torch
from torch import Tensor

from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.solvers.base import Inverse
from unlearn_lib.curvature.vector import Vector, axpy, flatten, unflatten
from unlearn_lib.errors import NumericsError


class Dense(Inverse):
    """Inverse and powers of a small operator, which may be indefinite for p = -1. Cost: P products and about 9 P^3 FLOPs, in float64."""

    def __init__(self, operator: Operator, damping: float) -> None:
        super().__init__(operator, damping)
        self._spectrum: tuple[Tensor, Tensor] | None = None

    def power(self, v: Vector, exponent: float) -> Vector:
        if self._spectrum is None:
            matrix = self.of.as_matrix().double()
            s_P, U_PP = torch.linalg.eigh((matrix + matrix.T) / 2)
            self.check_damping(float(s_P.abs().max()))
            self._spectrum = s_P + self.damping, U_PP
        if exponent == 1.0:  # the true product, for the residual
            return axpy(self.damping, v, self.of.mv(v))
        s_P, U_PP = self._spectrum
        if exponent != -1.0 and not s_P.min() > 0:
            raise NumericsError(
                f"the smallest eigenvalue of the damped operator is {float(s_P.min()):.3g}: a power of it is not real; "
                "raise the damping by more than that"
            )
        flat = flatten(v).double()
        return unflatten((U_PP @ (s_P**exponent * (U_PP.T @ flat))).to(self.dtype), self.params)
