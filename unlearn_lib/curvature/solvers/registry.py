"""The solvers by the names that users type. A new solver is one more line here."""

from __future__ import annotations

import inspect
from typing import Any

from unlearn_lib.curvature.solvers.base import Solver
from unlearn_lib.curvature.solvers.block import Block
from unlearn_lib.curvature.solvers.cg import ConjugateGradients
from unlearn_lib.curvature.solvers.dense import Dense
from unlearn_lib.curvature.solvers.diagonal import Diagonal
from unlearn_lib.curvature.solvers.kfac import Kronecker
from unlearn_lib.curvature.solvers.recursion import Recursion
from unlearn_lib.curvature.solvers.woodbury import Woodbury
from unlearn_lib.errors import InputError, unknown

SOLVERS: dict[str, type[Solver]] = {
    solver.name: solver for solver in (Woodbury, Recursion, Block, Diagonal, Dense, Kronecker, ConjugateGradients)
}


def named_solver(name: str, damping: float, **options: Any) -> Solver:
    """The solver of that name with these options.

    Raises:
        InputError: An unknown name, an option that the solver does not have, or a value out of its range.
    """
    if name not in SOLVERS:
        raise unknown("solver", name, SOLVERS)
    try:
        inspect.signature(SOLVERS[name]).bind(damping, **options)
    except TypeError as error:
        raise InputError(f"solver {name}: {error}; see help(unlearn_lib.curvature.solvers.{name})") from error
    return SOLVERS[name](damping, **options)
