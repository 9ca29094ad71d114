"""The solver that suits an operator, for those who do not choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unlearn_lib.curvature.empirical_fisher import EmpiricalFisher
from unlearn_lib.curvature.kfac import KFAC
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.solvers.base import Solver
from unlearn_lib.curvature.solvers.cg import ConjugateGradients
from unlearn_lib.curvature.solvers.inverse import Inverse
from unlearn_lib.curvature.solvers.kfac import Kronecker
from unlearn_lib.curvature.solvers.woodbury import Woodbury


@dataclass(frozen=True)
class Auto(Solver):
    """`Woodbury` for an `EmpiricalFisher`, `Kronecker` for a `KFAC`, and `ConjugateGradients` for every other operator."""

    name: ClassVar[str] = "auto"

    def suited_to(self, operator: Operator) -> Solver:
        if isinstance(operator, EmpiricalFisher):
            return Woodbury(self.damping)
        return Kronecker(self.damping) if isinstance(operator, KFAC) else ConjugateGradients(self.damping)

    def prepare(self, operator: Operator) -> Inverse:
        return self.suited_to(operator).prepare(operator)
