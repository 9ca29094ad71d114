"""What a solver returns: the answer, how far it got, why it stopped, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from unlearn_lib.curvature.vector import Vector
from unlearn_lib.errors import NumericsError


class Reason(StrEnum):
    """Why a solver stopped. The value is the sentence a user reads."""

    CONVERGED = "the residual is below the tolerance"
    PROGRESS = "Martens' rule: the quadratic model no longer improves by a relative 5e-4 a step"
    PRECISION = (
        "rounding: the residual stays above the tolerance; ask for precision='float64', raise the damping, or accept it with "
        "tolerance="
    )
    STEP_LIMIT = (
        "the step limit was reached before the tolerance; raise max_steps, raise the damping, give a preconditioner, "
        "or accept less with tolerance= or stop='martens'"
    )
    STAGNATION = (
        "the solution no longer improves and its residual is above the tolerance: the number format is exhausted; "
        "ask for precision='float64', raise the damping, or accept it with tolerance="
    )
    NEGATIVE_CURVATURE = (
        "a direction of negative curvature: the damped operator is not positive definite; raise the damping above its most negative "
        "eigenvalue, or use GaussNewton or EmpiricalFisher instead of Hessian"
    )
    BREAKDOWN = (
        "a number that is not finite appeared; the operator, the vector or the preconditioner overflows (precision='float64')"
    )

    @property
    def success(self) -> bool:
        """Whether the answer meets what was asked for."""
        return self in (Reason.CONVERGED, Reason.PROGRESS)


@dataclass(frozen=True)
class Solution:
    """The solution of (A + damping I) x = v, or of x = (A + damping I)^p v.

    Attributes:
        value: x, in the form of v (dict by parameter name, or flat).
        converged: Whether x meets the tolerance, or Martens' rule where that was asked for.
        reason: Why the solver stopped.
        iterations: Steps of an iterative solver; refinement steps of a direct one.
        residual: The true relative residual `|v - (A + damping I) x| / |v|`, recomputed from x. For another exponent p, that of
            the way back, `|v - (A + damping I)^(-p) x| / |v|`.
        operator: The system this is the residual of.
        gradient_evaluations: Gradients of single texts (forward and backward passes) that the FLOPs spent here would have paid for,
            everything included; 0 for operators without texts.
        peak_memory_bytes: The peak of live tensor bytes made here, beyond those of model, data and v.
    """

    value: Vector | Tensor
    converged: bool
    reason: Reason
    iterations: int
    residual: float
    operator: str
    gradient_evaluations: float
    peak_memory_bytes: int


class NotConvergedError(NumericsError):
    """A solver stopped short of what was asked for; `solution` holds what it has."""

    def __init__(self, solution: Solution) -> None:
        super().__init__(
            f"{solution.operator}: stopped after {solution.iterations} steps at a relative residual of {solution.residual:.1e}. "
            f"Reason: {solution.reason}. (throw=False returns the unfinished solution.)"
        )
        self.solution = solution
