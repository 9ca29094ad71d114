r"""Preconditioned conjugate gradients on (A + lambda I) x = v.

Unlike the usual ones it
* never trusts its own recursion: the residual is recomputed from x every 25 steps and before it says that it has converged;
* stops where p^T A p <= 0 and says so, with the x so far, instead of walking on;
* starts again where its recursion has lost touch with the true residual, and stops with a reason where that gains nothing, or
  where the quadratic model has stopped falling: the number format is exhausted.

`stop="martens"` stops where the quadratic model phi(x) = x^T A x / 2 - v^T x has stopped improving (Martens 2010, section 4.4):
i > k, phi(x_i) < 0 and phi(x_i) - phi(x_{i-k}) < k eps |phi(x_i)| in size, with k = max(10, i / 10) and eps = 5e-4.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from unlearn_lib.curvature.empirical_fisher import EmpiricalFisher
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.rehearsal import Rehearsal
from unlearn_lib.curvature.solution import Reason
from unlearn_lib.curvature.solvers.base import Solver
from unlearn_lib.curvature.solvers.inverse import TOLERANCE, Inverse
from unlearn_lib.curvature.vector import Vector, axpy, dot, norm, scale
from unlearn_lib.errors import InputError, NumericsError, unknown

RECOMPUTE = 25
DRIFT = 10.0
MARTENS_EPSILON = 5e-4
STOPS = ("residual", "martens")


@dataclass(frozen=True, kw_only=True, eq=False)  # a vector to start from has no truth value
class ConjugateGradients(Solver):
    """Inverse of a positive definite operator by products alone.

    Args:
        damping: lambda >= 0.
        max_steps: Products allowed for steps (recomputed residuals come on top, one in 25).
        preconditioner: An operator close to the inverse, positive definite: `invert(fisher, Woodbury(damping, keep="gradients"))`,
            `invert(kfac, Kronecker(damping))`.
        stop: `"residual"` or `"martens"`.
        start: x to start from, in either form; default zero.
        linearize: Keep graphs for cheaper products (`Operator.linearize`).

    Cost: one product a step. Memory: five vectors, and what a product needs. Only the exponent -1.
    """

    name: ClassVar[str] = "cg"
    at_most: ClassVar[bool] = True

    max_steps: int = 500
    preconditioner: Operator | None = field(default=None, repr=False)
    stop: str = "residual"
    start: Vector | Tensor | None = field(default=None, repr=False)
    linearize: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stop not in STOPS:
            raise unknown("stopping rule", self.stop, STOPS)
        if self.max_steps < 1:
            raise InputError(f"max_steps must be at least 1, got {self.max_steps}")

    def prepare(self, operator: Operator) -> Inverse:
        return ConjugateGradientsInverse(operator, self)

    def cost(self, rehearsal: Rehearsal) -> tuple[float, float]:
        """`(peak bytes, FLOPs)` of `max_steps` steps: five vectors beside the largest product. The preconditioner's are not counted."""
        risk = rehearsal.risk
        several, keeps_factors = len(risk.batches) > 1, self.linearize and isinstance(risk, EmpiricalFisher)
        peak, kept, flops = 0, 0, rehearsal.witness_flops if keeps_factors else 0
        for batch in risk.batches:
            product = rehearsal.product(batch, linearize=self.linearize)
            flops += product.build_flops + (1 + self.max_steps + self.max_steps // RECOMPUTE) * product.flops
            peak = max(peak, kept + product.peak)
            if self.linearize:
                kept += product.kept
        return peak + (4 + 2 * several) * risk.size * risk.dtype.itemsize, flops

    def smaller(self) -> Iterator[Solver]:
        if self.linearize:
            yield replace(self, linearize=False)


class ConjugateGradientsInverse(Inverse):
    """Inverse of an operator by conjugate gradients, which are run anew for every vector."""

    def __init__(self, operator: Operator, options: ConjugateGradients) -> None:
        super().__init__(operator, options.damping)
        self.options, self._products = options, operator

    def power(self, v: Vector, exponent: float) -> Vector:
        if exponent == 1.0:
            return axpy(self.damping, v, self._products.mv(v))
        x, reason, steps, residual = self.run(v, exponent, None)
        if not reason.success:
            raise NumericsError(
                f"{self.system}: cg stopped after {steps} steps at a relative residual of {residual:.1e}: {reason}"
            )
        return x

    def run(self, v: Vector, exponent: float, tolerance: float | None) -> tuple[Vector, Reason, int, float]:
        """`(x, reason, steps, true relative residual)`."""
        if exponent != -1.0:
            raise InputError(f"cg gives the inverse only, not the power {exponent:g}; use woodbury, block, diagonal or dense")
        length = norm(v)
        if length == 0:
            return scale(0.0, v), Reason.CONVERGED, 0, 0.0
        if self.options.linearize:
            self._products = self.of.linearize()
        goal = (tolerance or TOLERANCE[self.dtype]) * length
        start = self.options.start
        x = scale(0.0, v) if start is None else scale(1.0, self.own_form(start))  # a copy: x is improved in place
        r = v if start is None else self._residual(v, x)
        reason, steps, r = self._iterate(v, x, r, goal)
        return x, reason, steps, norm(r) / length

    def _iterate(self, v: Vector, x: Vector, r: Vector, goal: float) -> tuple[Reason, int, Vector]:
        """Improves x in place; returns the reason, the steps, and the true residual vector."""
        if norm(r) <= goal:
            return Reason.CONVERGED, 0, r
        p = z = self._precondition(r)
        rz, models, restarted_at = dot(r, z), [self._model(x, r, v)], math.inf
        if not rz > 0:
            return self._odd(rz), 0, r
        for step in range(1, self.options.max_steps + 1):
            q = self.power(p, 1.0)
            curvature = dot(p, q)
            if not curvature > 0:
                return self._odd(curvature), step - 1, self._residual(v, x)
            alpha = rz / curvature
            for name in x:
                x[name] += alpha * p[name]
            r = axpy(-alpha, q, r)
            believed, lost = norm(r), False
            if believed <= goal or step % RECOMPUTE == 0:
                r = self._residual(v, x)
                length = norm(r)
                if length <= goal:
                    return Reason.CONVERGED, step, r
                # the recursion has lost touch with the truth: start again from here, unless that was tried without gain
                lost = believed <= goal or length > DRIFT * believed
                if lost and length > 0.5 * restarted_at:
                    return Reason.STAGNATION, step, r
                restarted_at = length if lost else restarted_at
                if self._exhausted(models):
                    return Reason.STAGNATION, step, r
            models.append(self._model(x, r, v))
            if self.options.stop == "martens" and self._flat(models):
                return Reason.PROGRESS, step, self._residual(v, x)
            z = self._precondition(r)
            rz, before = dot(r, z), rz
            if not rz > 0:
                return self._odd(rz), step, self._residual(v, x)
            p = z if lost else axpy(rz / before, p, z)
        return Reason.STEP_LIMIT, self.options.max_steps, self._residual(v, x)

    @staticmethod
    def _model(x: Vector, r: Vector, v: Vector) -> float:
        """phi(x), from r = v - A x."""
        return -0.5 * (dot(x, r) + dot(x, v))

    def _residual(self, v: Vector, x: Vector) -> Vector:
        return axpy(-1.0, self.power(x, 1.0), v)

    def _precondition(self, r: Vector) -> Vector:
        return r if self.options.preconditioner is None else self.options.preconditioner.mv(r)

    def _flat(self, models: list[float]) -> bool:
        i = len(models) - 1
        k = max(10, i // 10)
        return i > k and models[i] < 0 and models[i - k] - models[i] < k * MARTENS_EPSILON * abs(models[i])

    def _exhausted(self, models: list[float]) -> bool:
        """Whether 50 steps lowered the model, which falls at every step in exact arithmetic, by no more than rounding."""
        eps = torch.finfo(self.dtype).eps
        return len(models) > 2 * RECOMPUTE and models[-1 - 2 * RECOMPUTE] - models[-1] <= 8 * eps * abs(models[-1])

    @staticmethod
    def _odd(number: float) -> Reason:
        """What a curvature or a preconditioned square that is not positive means."""
        return Reason.NEGATIVE_CURVATURE if math.isfinite(number) else Reason.BREAKDOWN


def levenberg_marquardt(damping: float, *, actual: float, predicted: float) -> float:
    """The damping of the next step (Martens 2010, section 4.1).

    Times 3/2 where less than a quarter of what the quadratic model promised came true, times 2/3 where more than three quarters did.

    Args:
        damping: lambda of this step.
        actual: Change of the objective by the step.
        predicted: Change that the quadratic model foretold, negative: g^T x + x^T A x / 2 for the step x.
    """
    if not predicted < 0:
        raise InputError(f"the predicted change must be negative (a step downhill of the model), got {predicted}")
    ratio = actual / predicted
    if ratio < 0.25:
        return damping * 1.5
    return damping * 2 / 3 if ratio > 0.75 else damping
