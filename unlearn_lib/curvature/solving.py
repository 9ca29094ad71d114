"""One call for every solver: (A + damping I)^p v, verified, with its cost; its plan; its inverse as an operator.

solve(F, g, Woodbury(damping=1e-2))      plan(F, Woodbury(damping=1e-2))      invert(F, Woodbury(damping=1e-2))
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.rehearsal import Rehearsal
from unlearn_lib.curvature.risk import EmpiricalRisk
from unlearn_lib.curvature.solution import NotConvergedError, Solution
from unlearn_lib.curvature.solvers.base import Plan, Solver
from unlearn_lib.curvature.solvers.inverse import Inverse
from unlearn_lib.curvature.solvers.registry import SOLVERS
from unlearn_lib.curvature.vector import Vector, all_finite, flatten
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.losses import without_autocast


@without_autocast()
def solve(
    operator: Operator,
    v: Vector | Tensor,
    solver: Solver,
    *,
    exponent: float = -1.0,
    tolerance: float | None = None,
    throw: bool = True,
    memory_limit: int | None = None,
) -> Solution:
    """Solve (A + damping I) x = v, or apply another power: x = (A + damping I)^exponent v.

    Args:
        operator: A.
        v: Dict by parameter name, or flat `[P]`.
        solver: How, with which damping and options; `Auto(damping=...)` takes the one that suits the operator.
        exponent: p; conjugate gradients and the recursion know -1 only.
        tolerance: Relative residual to reach; default 3e-5 in float32, 1e-9 in float64.
        throw: Raise where the tolerance is not reached; otherwise return what there is, with the reason.
        memory_limit: Bytes beyond model, data and v that may be used; what the plan says would not fit is refused before it
            starts.

    Returns:
        A `Solution` with x in the form of v, the true residual, the reason for stopping, and the cost.

    Raises:
        InputError: A vector that does not fit, a solver that does not serve this operator, a tolerance that is not positive.
        NumericsError: v is not finite; the damping is too small for the number format; `NotConvergedError` (with `throw`).
    """
    own = operator.own_form(v)
    if not all_finite(own.values()):
        raise NumericsError("the vector to solve for is not finite; the gradient it came from has overflowed")
    if tolerance is not None and not tolerance > 0:
        raise InputError(f"tolerance must be positive, got {tolerance}")
    inverse = solver.prepare(operator)
    if memory_limit is not None:
        if not isinstance(operator, EmpiricalRisk):
            raise InputError(f"memory_limit needs a plan, and there is none for a {type(operator).__name__}")
        refuse_what_does_not_fit(operator, solver, memory_limit)
    with torch.no_grad(), Meter() as meter:
        x, reason, iterations, residual = inverse.run(own, exponent, tolerance)
    solution = Solution(
        value=flatten(x) if isinstance(v, Tensor) else x,
        converged=reason.success,
        reason=reason,
        iterations=iterations,
        residual=residual,
        operator=inverse.system,
        gradient_evaluations=operator.counted(meter),
        peak_memory_bytes=meter.peak,
    )
    if throw and not solution.converged:
        raise NotConvergedError(solution)
    return solution


def invert(operator: Operator, solver: Solver) -> Inverse:
    """(A + damping I)^-1 as an operator that is prepared once and applied often, for example as a preconditioner.

    Raises:
        InputError: The solver does not serve this operator.
    """
    return solver.prepare(operator)


def plan(operator: EmpiricalRisk, solver: Solver) -> Plan:
    """The peak memory and the gradients of single texts that `solve` with this solver will need, without running it.

    Raises:
        InputError: There is no plan for the solver, or none for this solver with this operator.
    """
    return _planned(Rehearsal(operator), solver)


def _planned(rehearsal: Rehearsal, solver: Solver) -> Plan:
    solver = solver.suited_to(rehearsal.risk)
    if not solver.planned:
        known = ", ".join(name for name, kind in SOLVERS.items() if kind.planned)
        raise InputError(f"there is no plan for solver {solver.name!r}; there is one for {known}")
    peak, flops = solver.cost(rehearsal)
    return Plan(solver, round(peak), rehearsal.risk.texts_worth(flops))


def refuse_what_does_not_fit(operator: EmpiricalRisk, solver: Solver, limit: int) -> None:
    """Compare the plan with a limit in bytes.

    Raises:
        InputError: It does not fit; with the first setting that does, where there is one.
    """
    rehearsal = Rehearsal(operator)
    wanted = _planned(rehearsal, solver)
    if wanted.peak_memory_bytes <= limit:
        return
    for other in wanted.solver.smaller():
        found = _planned(rehearsal, other)
        if found.peak_memory_bytes <= limit:
            raise InputError(f"this solve needs more than the {limit / 2**20:,.0f} MiB allowed ({wanted}); what fits: {found}")
    raise InputError(
        f"this solve needs more than the {limit / 2**20:,.0f} MiB allowed ({wanted}); use smaller batches, fewer sequences, "
        "or a part of the parameters (params=)"
    )
