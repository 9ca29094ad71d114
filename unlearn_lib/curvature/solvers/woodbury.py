r"""The damped empirical Fisher's inverse, and any power of it, through the n x n Gram matrix of per-sequence gradients. Exact.

With G the n x P matrix of gradients and K = G G^T = U diag(s) U^T (Woodbury's identity for p = -1):

    (G^T G / n + lambda I)^p v = lambda^p v + G^T U diag(c) U^T G v,    c = [(s/n + lambda)^p - lambda^p] / s,

with c -> p lambda^(p-1) / n as s -> 0. The complement of the gradients' span carries lambda^p: with little damping it is
amplified most. K and G v come from one capture of kept activations, so that a verified solve costs about 2.1 gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from unlearn_lib.curvature.empirical_fisher import EmpiricalFisher
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.per_sequence import SequenceGradients
from unlearn_lib.curvature.rehearsal import Rehearsal
from unlearn_lib.curvature.solvers.by_gradients import ROUNDED_REFINEMENTS, GradientSolver, by_batches, refuse_rounded
from unlearn_lib.curvature.solvers.cg import ConjugateGradients
from unlearn_lib.curvature.solvers.inverse import Inverse
from unlearn_lib.curvature.symmetric import formed
from unlearn_lib.curvature.vector import Vector, axpy
from unlearn_lib.errors import InputError

PASSES = (1, 2, 4, 8, 16, 32)
"""Numbers of groups of parameters that are tried where memory is short."""


@dataclass(frozen=True, kw_only=True)
class Woodbury(GradientSolver):
    """Inverse and powers of an `EmpiricalFisher`, exactly.

    Args:
        damping: lambda > 0.
        keep, passes, chunk: What of the gradients is kept, see `SequenceGradients`: `"activations"` (input and output gradient of
            every product), `"gradients"` (n P numbers; each further product is nearly free) or `"nothing"` with `passes`.
        factors: `"float32"`, or `"bfloat16"`: kept factors take half the memory, each rounded by a relative 2^-8 at most, about 2^-9 in
            the mean, and the solve knows the inverse alone. The residual is that of exact products, of gradients captured anew batch by
            batch, so that it shows what the rounding does. Refinements, up to ten, bring it down where the damping is not far below
            the rounding of the largest eigenvalue.

    Cost, in gradients of each text: 1 + n / 6T to prepare (T tokens a sequence) with the first product; then 2/3 a product, with
    kept activations. A verified solve: 2 + n / 6T; each refinement 4/3 (with rounded factors 2 2/3 + n / 6T, and 2). Below 128
    sequences n / 3T stands for n / 6T. The eigenvalues of K are found in float64.
    """

    name: ClassVar[str] = "woodbury"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.damping == 0:
            raise InputError("woodbury needs damping > 0: the Fisher of n sequences has rank n at most")

    def prepare(self, operator: Operator) -> Inverse:
        if not isinstance(operator, EmpiricalFisher):
            raise InputError(f"woodbury inverts an EmpiricalFisher, not a {type(operator).__name__}; use cg")
        return WoodburyInverse(operator, self.damping, self.gradients(operator))

    def cost(self, rehearsal: Rehearsal) -> tuple[float, float]:
        need, n, P = self.budget(rehearsal), rehearsal.risk.sequences, rehearsal.risk.size
        vector = P * rehearsal.risk.dtype.itemsize
        flops = need.flops + 2 * formed(n) * P + 2 * n * P + 3 * need.product + rehearsal.witness_flops
        if self.factors != "float32":
            own = rehearsal.capture.product_flops  # of the products of captured gradients
            flops += need.again + 2 * (own - need.product)
            verifying = need.anew + (need.kept if self.keep == "activations" else 0)
            return max(need.taking, need.kept + need.block, verifying), flops
        if self.keep == "gradients":
            return max(need.taking, need.kept + need.block + 3 * vector), flops
        products = 3 * vector + need.kept
        if self.keep == "nothing":  # products are taken by automatic differentiation, when no factors are left
            products = max(vector + max(rehearsal.adjoint_peak, rehearsal.project_peak), 3 * vector)
        return max(need.taking, need.kept + need.block, products), flops

    def smaller(self) -> Iterator[GradientSolver | ConjugateGradients]:
        for passes in PASSES:
            yield replace(self, keep="nothing", passes=passes)
        yield ConjugateGradients(self.damping)


class WoodburyInverse(Inverse):
    """Inverse and powers of a Fisher by the eigenvalues of its gradients' Gram matrix."""

    def __init__(self, operator: Operator, damping: float, gradients: SequenceGradients) -> None:
        super().__init__(operator, damping)
        self.gradients = gradients
        if gradients.factors != "float32":
            self.most_refinements = ROUNDED_REFINEMENTS
        self._spectrum: tuple[Tensor, Tensor] | None = None

    def power(self, v: Vector, exponent: float) -> Vector:
        w_n: Tensor | None
        refuse_rounded(self.gradients, exponent)
        if exponent == 1.0 and self.gradients.factors != "float32":  # the exact product, for the residual
            risk = self.gradients.risk
            parts = (g.adjoint(g.project(v) / risk.sequences) for g in by_batches(self.gradients))
            return axpy(self.damping, v, risk.added(parts))
        if self._spectrum is None:
            K_nn, w_n = self.gradients.gram(v)
            s_n, U_nn = torch.linalg.eigh(K_nn)
            self.check_damping(float(s_n[-1]) / len(s_n))
            self._spectrum = s_n.clamp_min(0), U_nn
        else:
            w_n = self.gradients.project(v)
        assert w_n is not None
        s_n, U_nn = self._spectrum
        c_n = _coefficients(s_n, self.damping, exponent)
        return axpy(self.damping**exponent, v, self.gradients.adjoint(U_nn @ (c_n * (U_nn.T @ w_n))))


def _coefficients(s_n: Tensor, damping: float, exponent: float) -> Tensor:
    """[(s/n + lambda)^p - lambda^p] / s without cancellation: lambda^p (exp(p log1p(s / n lambda)) - 1) / s."""
    n = len(s_n)
    ratio = s_n / (n * damping)
    grown = torch.expm1(exponent * torch.log1p(ratio)) / ratio.clamp_min(torch.finfo(ratio.dtype).tiny)
    c_n: Tensor = damping ** (exponent - 1) / n * torch.where(ratio > 0, grown, exponent)
    return c_n
