"""The operator as a dense matrix, by its eigenvalues: for small models, and as the reference of the other solvers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.rehearsal import Rehearsal
from unlearn_lib.curvature.solvers.base import Solver
from unlearn_lib.curvature.solvers.by_gradients import budget
from unlearn_lib.curvature.solvers.inverse import Inverse
from unlearn_lib.curvature.symmetric import formed
from unlearn_lib.curvature.vector import Vector, axpy, flatten, unflatten
from unlearn_lib.errors import NumericsError


@dataclass(frozen=True)
class Dense(Solver):
    """Inverse and powers of a small operator, which may be indefinite for p = -1.

    Args:
        damping: lambda >= 0.

    Cost: P products (1 gradient of each text and n P^2 FLOPs or a little more for the Fisher), and about 9 P^3 FLOPs in float64, which the
    count of matrix products does not see. Memory: three matrices of P^2 numbers in float64, that is 24 P^2 bytes.
    """

    name: ClassVar[str] = "dense"

    def prepare(self, operator: Operator) -> Inverse:
        return DenseInverse(operator, self.damping)

    def cost(self, rehearsal: Rehearsal) -> tuple[float, float]:
        fisher = self.planned_fisher(rehearsal)
        fisher.check_size()
        n, P, need = fisher.sequences, fisher.size, budget(fisher.gradients(), rehearsal)
        matrices = 3 * 8 * P**2  # the matrix, its symmetric part and the eigenvectors
        forming = 2 * n * formed(P) + 2 * 2 * P**2  # G^T G, and two products with the eigenvectors
        verifying = 2 * fisher.gradient_flops
        return max(need.taking, matrices), need.flops + forming + verifying + rehearsal.witness_flops


class DenseInverse(Inverse):
    """Inverse and powers of an operator by the eigenvalues of its matrix, which is formed at the first use."""

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
