"""Curvature of a language model's loss. Vectors are dicts of tensors by parameter name.

An operator (`Hessian`, `GaussNewton`, `EmpiricalFisher`, `KFAC`) knows its products with vectors. A solver (`Woodbury`, `Block`, ...)
is a small frozen dataclass of options, which knows no operator until they meet:

    solve(F, g, Woodbury(damping=1e-2))      (F + damping I)^-1 g, verified
    plan(F, Woodbury(damping=1e-2))          what that will cost, before it is computed
    invert(F, Woodbury(damping=1e-2))        (F + damping I)^-1 as an operator, for example as a preconditioner

Costs in docstrings are gradients of each of the operator's texts. `gradient_evaluations` counts gradients of single texts: what costs
2 gradients has 2 n of them on n texts.
"""

from unlearn_lib.curvature.blocks import from_blocks, to_blocks
from unlearn_lib.curvature.empirical_fisher import EmpiricalFisher
from unlearn_lib.curvature.gauss_newton import GaussNewton
from unlearn_lib.curvature.gradient import batch_gradient, mean_gradient, trainable
from unlearn_lib.curvature.hessian import Hessian
from unlearn_lib.curvature.kfac import KFAC
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.per_sequence import SequenceGradients
from unlearn_lib.curvature.recursion import BlockRecursion
from unlearn_lib.curvature.solution import NotConvergedError, Reason, Solution
from unlearn_lib.curvature.solvers.auto import Auto
from unlearn_lib.curvature.solvers.base import Plan, Solver
from unlearn_lib.curvature.solvers.block import Block
from unlearn_lib.curvature.solvers.cg import ConjugateGradients
from unlearn_lib.curvature.solvers.dense import Dense
from unlearn_lib.curvature.solvers.diagonal import Diagonal
from unlearn_lib.curvature.solvers.inverse import Inverse
from unlearn_lib.curvature.solvers.kfac import Kronecker
from unlearn_lib.curvature.solvers.recursion import Recursion
from unlearn_lib.curvature.solvers.registry import named_solver
from unlearn_lib.curvature.solvers.woodbury import Woodbury
from unlearn_lib.curvature.solving import invert, plan, solve

__all__ = [
    "KFAC",
    "Auto",
    "Block",
    "BlockRecursion",
    "ConjugateGradients",
    "Dense",
    "Diagonal",
    "EmpiricalFisher",
    "GaussNewton",
    "Hessian",
    "Inverse",
    "Kronecker",
    "NotConvergedError",
    "Operator",
    "Plan",
    "Reason",
    "Recursion",
    "SequenceGradients",
    "Solution",
    "Solver",
    "Woodbury",
    "batch_gradient",
    "from_blocks",
    "invert",
    "mean_gradient",
    "named_solver",
    "plan",
    "solve",
    "to_blocks",
    "trainable",
]
