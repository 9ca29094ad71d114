r"""The paper's way to the inverse Fisher: one gradient at a time (equations 7 and 8), without a P x P matrix.

With u_i = F_{i-1}^{-1} g_i, equation 8 reads F_i^{-1} = F_{i-1}^{-1} - u_i u_i^T / (n + g_i^T u_i), so that every inverse so
far is I / lambda minus the terms found: u_i = g_i / lambda - sum_{j<i} u_j (u_j^T g_i) / (n + g_j^T u_j).

Sequential, n^2 P work, and all u kept: a baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unlearn_lib.curvature.blocks import from_blocks, to_blocks
from unlearn_lib.curvature.empirical_fisher import EmpiricalFisher
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.precision import exact_products
from unlearn_lib.curvature.recursion import BlockRecursion
from unlearn_lib.curvature.rehearsal import Rehearsal
from unlearn_lib.curvature.solvers.base import Solver
from unlearn_lib.curvature.solvers.by_gradients import budget
from unlearn_lib.curvature.solvers.inverse import Inverse
from unlearn_lib.curvature.vector import Vector, axpy, flatten, unflatten
from unlearn_lib.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Recursion(Solver):
    """Inverse of an `EmpiricalFisher` by the recursion over its n sequences.

    Args:
        damping: lambda > 0.
        width: None for the full matrix; B for the paper's blocks, which keep P B numbers.

    Cost: the gradient of each text once, 4 n^2 P / 2 FLOPs (blocks: 4 n P B), and 2 n P numbers of memory. Only the exponent -1.
    """

    name: ClassVar[str] = "recursion"

    width: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.damping == 0:
            raise InputError("the recursion starts from I / damping; damping must be positive")

    def prepare(self, operator: Operator) -> Inverse:
        if not isinstance(operator, EmpiricalFisher):
            raise InputError(f"the recursion inverts an EmpiricalFisher, not a {type(operator).__name__}; use cg")
        return RecursionInverse(operator, self.damping, self.width)

    def cost(self, rehearsal: Rehearsal) -> tuple[float, float]:
        need = budget(self.planned_fisher(rehearsal).gradients(keep="gradients"), rehearsal)
        n, P = rehearsal.risk.sequences, rehearsal.risk.size
        # G, the terms, and one of their temporaries
        peak = max(need.taking, 3 * need.kept + 3 * P * rehearsal.risk.dtype.itemsize)
        return peak, need.flops + 2 * n * n * P + 3 * need.product + rehearsal.witness_flops


class RecursionInverse(Inverse):
    """Inverse of a Fisher by the terms of its recursion, which are computed at the first use."""

    def __init__(self, operator: EmpiricalFisher, damping: float, width: int | None) -> None:
        super().__init__(operator, damping)
        self.width = width
        self._gradients = operator.gradients(keep="gradients")
        self._terms: BlockRecursion | tuple[Tensor, Tensor] | None = None

    @property
    def system(self) -> str:
        return super().system if self.width is None else f"block diagonal (width {self.width}) of {super().system}"

    def power(self, v: Vector, exponent: float) -> Vector:
        if exponent == 1.0:
            return self._product(v)
        if exponent != -1.0:
            raise InputError(f"the recursion gives the inverse only, not the power {exponent:g}; use block or woodbury")
        with exact_products():
            if self._terms is None:
                self._terms = self._prepare()
            if isinstance(self._terms, BlockRecursion):
                return from_blocks(self._terms.apply(to_blocks(v, self._terms.inverse_KBB.shape[1])), self.params)
            u_nP, scale_n = self._terms
            return unflatten(_apply(u_nP, scale_n, flatten(v), self.damping), self.params)

    def _prepare(self) -> BlockRecursion | tuple[Tensor, Tensor]:
        g_nP = self._gradients.matrix()
        if self.width is None:
            return full_recursion(g_nP, self.damping)
        rows = [to_blocks(unflatten(g_P, self.params), self.width) for g_P in g_nP]
        recursion = BlockRecursion(len(rows[0]), self.width, self.damping, len(rows), g_nP)
        for g_KB in rows:
            recursion.add(g_KB)
        return recursion

    def _product(self, x: Vector) -> Vector:
        if self.width is None:
            return axpy(self.damping, x, self._gradients.adjoint(self._gradients.project(x) / self._gradients.n))
        x_KB = to_blocks(x, self.width)
        product_KB = self.damping * x_KB
        for g_P in self._gradients.matrix():
            g_KB = to_blocks(unflatten(g_P, self.params), self.width)
            product_KB += g_KB * (g_KB * x_KB).sum(1, keepdim=True) / self._gradients.n
        return from_blocks(product_KB, self.params)


def full_recursion(g_nP: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """`(u_nP, scale_n)`: the terms u_i and 1 / (n + g_i^T u_i) of the full-matrix recursion, by matrix-vector products."""
    n = len(g_nP)
    u_nP, scale_n = torch.empty_like(g_nP), g_nP.new_zeros(n)
    for i, g_P in enumerate(g_nP):
        u_nP[i] = _apply(u_nP[:i], scale_n[:i], g_P, damping)
        scale_n[i] = 1 / (n + g_P @ u_nP[i])
    return u_nP, scale_n


def _apply(u_nP: Tensor, scale_n: Tensor, v_P: Tensor, damping: float) -> Tensor:
    return v_P / damping - u_nP.T @ (scale_n * (u_nP @ v_P))
