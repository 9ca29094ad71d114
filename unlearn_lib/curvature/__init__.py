"""Curvature of a language model's loss. Vectors are dicts of tensors by parameter name."""

from unlearn_lib.curvature.blocks import from_blocks, to_blocks
from unlearn_lib.curvature.empirical_fisher import EmpiricalFisher
from unlearn_lib.curvature.gauss_newton import GaussNewton
from unlearn_lib.curvature.gradient import batch_gradient, mean_gradient, trainable
from unlearn_lib.curvature.hessian import Hessian
from unlearn_lib.curvature.kfac import KFAC
from unlearn_lib.curvature.per_sequence import SequenceGradients
from unlearn_lib.curvature.recursion import BlockRecursion
from unlearn_lib.curvature.solution import NotConvergedError, Reason, Solution

__all__ = [
    "KFAC",
    "BlockRecursion",
    "EmpiricalFisher",
    "GaussNewton",
    "Hessian",
    "NotConvergedError",
    "Reason",
    "SequenceGradients",
    "Solution",
    "batch_gradient",
    "from_blocks",
    "mean_gradient",
    "to_blocks",
    "trainable",
]
