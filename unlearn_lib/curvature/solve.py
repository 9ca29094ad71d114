"""One call for every solver: (A + damping I)^p v, verified, with its cost."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.plan import refuse_what_does_not_fit
from unlearn_lib.curvature.risk import EmpiricalRisk
from unlearn_lib.curvature.solution import NotConvergedError, Solution
from unlearn_lib.curvature.solvers.base import Inverse
from unlearn_lib.curvature.solvers.block import Block
from unlearn_lib.curvature.solvers.cg import ConjugateGradients
from unlearn_lib.curvature.solvers.dense import Dense
from unlearn_lib.curvature.solvers.diagonal import Diagonal
from unlearn_lib.curvature.solvers.kfac import Kronecker
from unlearn_lib.curvature.solvers.recursion import Recursion
from unlearn_lib.curvature.solvers.woodbury import Woodbury
from unlearn_lib.curvature.vector import Vector, all_finite, flatten
from unlearn_lib.errors import InputError, NumericsError, unknown
from unlearn_lib.losses import without_autocast

SOLVERS: dict[str, type[Inverse]] = {
    "woodbury": Woodbury,
    "recursion": Recursion,
    "block": Block,
    "diagonal": Diagonal,
    "dense": Dense,
    "kfac": Kronecker,
    "cg": ConjugateGradients,
}


def inverse(operator: Operator, damping: float, solver: str, options: Mapping[str, Any]) -> Inverse:
    """The solver of that name for an operator, not yet run."""
    if solver not in SOLVERS:
        raise unknown("solver", solver, SOLVERS)
    try:
        inspect.signature(SOLVERS[solver]).bind(operator, damping, **options)
        return SOLVERS[solver](operator, damping, **options)
    except TypeError as error:
        raise InputError(f"solver {solver}: {error}; see help(unlearn_lib.curvature.solvers.{solver})") from error


@without_autocast()
def solve(
    operator: Operator,
    v: Vector | Tensor,
    damping: float,
    solver: str | None,
    *,
    exponent: float,
    tolerance: float | None,
    throw: bool,
    memory_limit: int | None,
    options: Mapping[str, Any],
) -> Solution:
    """See `Operator.solve`."""
    own = operator.own_form(v)
    if not all_finite(own.values()):
        raise NumericsError("the vector to solve for is not finite; the gradient it came from has overflowed")
    if tolerance is not None and not tolerance > 0:
        raise InputError(f"tolerance must be positive, got {tolerance}")
    name = solver or operator.default_solver
    method = inverse(operator, damping, name, options)
    if memory_limit is not None:
        if not isinstance(operator, EmpiricalRisk):
            raise InputError(f"memory_limit needs a plan, and there is none for a {type(operator).__name__}")
        refuse_what_does_not_fit(operator, name, options, memory_limit)
    with torch.no_grad(), Meter() as meter:
        x, reason, iterations, residual = method.run(own, exponent, tolerance)
    unit = operator.gradient_flops
    solution = Solution(
        value=flatten(x) if isinstance(v, Tensor) else x,
        converged=reason.success,
        reason=reason,
        iterations=iterations,
        residual=residual,
        operator=method.system,
        gradient_evaluations=meter.flops / unit if unit else 0.0,
        peak_memory_bytes=meter.peak,
    )
    if throw and not solution.converged:
        raise NotConvergedError(solution)
    return solution
