r"""Newton's step towards the retrained model, Hessian-free: conjugate gradients on curvature products with D+.

The minimum of the retain risk lies, to second order, at theta + x with (H_R + lambda I) x = v and

    right_hand_side="retain"    v = -grad L_R                 Newton's method on the retain risk itself (equation 5 on D+)
    right_hand_side="forget"    v = (n_F / n_R) g_F           the influence of the forgotten texts (Warnecke et al. 2021)

At a minimum of the whole risk n_R grad L_R + n_F g_F = 0 and the two agree; elsewhere "retain" goes on training, too, and may
even lower the forget loss. "forget" is the default because a fine-tuned model is never at its minimum: it takes away the
forgotten texts' influence and nothing else. An L2 penalty (l2 / 2) |theta|^2 of every text's loss is added to gradients and H.

How far such a step may be trusted decides everything: on texts that a model knows by heart gradients and curvature are tiny, and
Newton's own length leads far outside of where the quadratic model holds. So the length is found by measurement: with held-out
texts by calibration, in four steps with curvature anew for each; without, it is halved while that makes the forgetting worth more
than the damage.

Levenberg-Marquardt compares the change of the objective that the step minimises, L_R - (grad L_R + v)^T x, with the quadratic
model's promise, and adapts lambda from step to step; a step that makes the objective worse is taken back.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from unlearn_lib.curvature import (
    ConjugateGradients,
    GaussNewton,
    Hessian,
    NotConvergedError,
    Reason,
    Solution,
    plan,
    solve,
    trainable,
)
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.risk import EmpiricalRisk
from unlearn_lib.curvature.solvers.cg import levenberg_marquardt
from unlearn_lib.curvature.vector import Vector, axpy, dot, scale
from unlearn_lib.errors import InputError
from unlearn_lib.losses import mean_loss
from unlearn_lib.methods.base import NOTHING, Inputs, Outcome
from unlearn_lib.methods.direction import DirectionMethod
from unlearn_lib.methods.plan import MethodPlan
from unlearn_lib.methods.resume import Weights
from unlearn_lib.methods.target import CHECKED, Start

PROBES = 4
"""Random vectors that the mean of the curvature's diagonal is estimated from."""
HALVINGS = 20
CURVATURES: dict[str, type[EmpiricalRisk]] = {"gauss-newton": GaussNewton, "hessian": Hessian}


class Newton(DirectionMethod):
    """One or a few Newton steps on the retain risk.

    Options:
        curvature: "gauss-newton" (positive semi-definite) or "hessian" (needs a damping above its most negative eigenvalue).
        right_hand_side: "forget" for the influence of the forgotten texts, "retain" for Newton's method on the retain risk itself.
        step: 1 is Newton's own length; with Levenberg-Marquardt below 2, where the quadratic model still goes downhill.
            "calibrate" goes as far as the forget loss needs; "limited" is Newton's own length or a half, a quarter, ... of it, the one
            at which the forget loss's rise less the retain loss's over `retain_limit` is largest: further on, forgetting would
            cost more than the limit. The default is "calibrate" where there are held-out texts (or target_loss), and else "limited",
            or 1 with several steps.
        steps: How often the direction is computed anew; the default is 4 where step's default is "calibrate", else 1.
        retain_limit: With "calibrate" and "limited" the retain loss may rise by at most this times the rise of the forget loss; None for
            no limit. With "calibrate" it is measured on a quarter of the retained texts, which are held aside for that, with the standard
            error of so small a sample added; with "limited" on those that the step is computed from (at most 256), because Newton's own
            length belongs to all of them.
        damping: lambda >= 0 of the first step; None for `relative_damping` times the mean of the Gauss-Newton matrix' diagonal before
            the first step, which means the same for models of every size.
        relative_damping: The factor of that mean.
        l2: Coefficient of the L2 penalty that training used (weight decay).
        adapt: Levenberg-Marquardt between steps (not with step="calibrate", which finds the length by measurement).
        retain_samples: The most sequences of D+ that curvature is computed from.
        max_steps: The most steps of conjugate gradients, which also stop where the quadratic model no longer improves (Martens).
        tolerance: The relative residual at which conjugate gradients stop.
        linearize: Keep the graphs of all batches, for products at about half the cost.
        precision: The number format of the curvature; None for the model's.
    """

    name: ClassVar[str] = "newton"
    needs: ClassVar[tuple[str, ...]] = ("retain",)
    source: ClassVar[str] = (
        "Koh and Liang 2017 (arXiv 1703.04730); Guo et al. 2020 (arXiv 1911.03030); Martens 2010 for the solver"
    )

    step: float | Literal["calibrate", "limited"] | None = Field(None, union_mode="left_to_right")  # type: ignore[assignment]
    steps: int | None = Field(None, ge=1)  # type: ignore[assignment]
    curvature: Literal["gauss-newton", "hessian"] = "gauss-newton"
    right_hand_side: Literal["forget", "retain"] = "forget"
    damping: float | None = Field(None, ge=0)
    relative_damping: float = Field(10.0, gt=0)
    l2: float = Field(0.0, ge=0)
    adapt: bool = True
    retain_samples: int = Field(256, ge=1)
    max_steps: int = Field(20, ge=1)
    tolerance: float = Field(1e-3, gt=0)
    linearize: bool = True
    precision: Literal["float32", "float64"] | None = None

    @model_validator(mode="after")
    def _downhill(self) -> Self:
        if self._adapts() and not 0 < self._length() < 2:
            raise ValueError(
                f"step={self.step} with several steps: Levenberg-Marquardt needs a step between 0 and 2; or set adapt=False"
            )
        return self

    def _adapts(self) -> bool:
        return isinstance(self.step, (int, float)) and self.adapt and (self.steps or 1) > 1

    def _length(self) -> float:
        assert isinstance(self.step, (int, float))
        return float(self.step)

    def settled(self, inputs: Inputs) -> Self:
        step = self.step
        if step is None:
            one = (self.steps or 1) == 1 and self.retain_limit is not None
            calibrated = (inputs.holdout or self.target_loss is not None) and self.forget_batch_size is None
            step = "calibrate" if calibrated else "limited" if one else 1.0
        steps = self.steps or (4 if self.step is None and step == "calibrate" else 1)
        return self.model_copy(update={"step": step, "steps": steps})

    def run(self, model: Any, inputs: Inputs) -> Outcome:
        own = self.settled(inputs)
        return own._trust_region(model, inputs) if own._adapts() else super(Newton, own).run(model, inputs)

    def plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        return super(Newton, self.settled(inputs)).plan(model, inputs)

    def follow(self, model: Any, d: Vector, inputs: Inputs, outcome: Outcome) -> float:
        if self.step != "limited":
            return super().follow(model, d, inputs, outcome)
        assert self.retain_limit is not None
        limit, start = self.retain_limit, Start(model)
        forget = inputs.batches(inputs.forget, model.device)
        retain = inputs.batches(inputs.some_retain(CHECKED), model.device)
        looked_at = sum(len(batch["labels"]) for batch in (*forget, *retain))
        inputs.passes.forward += looked_at
        forget_before, retain_before = mean_loss(model, forget), mean_loss(model, retain)

        def worth() -> float:
            """The rise of the forget loss less the rise of the retain loss over the limit; -inf where a loss is not finite."""
            inputs.passes.forward += looked_at
            found = mean_loss(model, forget) - forget_before - (mean_loss(model, retain) - retain_before) / limit
            return found if math.isfinite(found) else -math.inf

        length, best, worth_most = 1.0, 0.0, 0.0
        for _ in range(HALVINGS):
            start.go(d, length)
            found = worth()
            if found > worth_most:
                best, worth_most = length, found
            elif best:
                break  # past the best
            length /= 2
        if best:
            start.go(d, best)
        else:
            start.back()
            outcome.warnings.append(
                f"{NOTHING}: however short the step, the retain loss rises by more than {self.retain_limit:g} times the rise of the "
                "forget loss"
            )
        return best

    def direction(self, model: Any, g: Vector, inputs: Inputs, outcome: Outcome) -> Vector:
        _, v = self._gradients(model, g, inputs, outcome)
        return self._solve(self._operator(model, inputs), v, self._damping(model, inputs, outcome), outcome)

    def curvature_plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        H = self._operator(model, inputs)
        solver = ConjugateGradients(self.damping or 0.0, max_steps=self.max_steps, linearize=self.linearize)
        found = plan(H, solver)
        scale_of_damping = 2 * PROBES / (self.steps or 1) if self.damping is None else 0
        texts = found.gradient_evaluations + (1 + scale_of_damping) * H.sequences
        return MethodPlan(texts, found.peak_memory_bytes, f"{found}, with {H.sequences} texts")

    def _operator(self, model: Any, inputs: Inputs) -> EmpiricalRisk:
        batches = inputs.batches(inputs.some_retain(self.retain_samples), model.device)
        return CURVATURES[self.curvature](model, batches, precision=self.precision)

    def _damping(self, model: Any, inputs: Inputs, outcome: Outcome) -> float:
        """lambda; a relative one is computed before the first step and kept."""
        if self.damping is not None:
            return self.damping
        if "damping" not in outcome.details:
            G = GaussNewton(model, self._operator(model, inputs).batches, precision=self.precision)
            with Meter() as meter:
                mean = mean_diagonal(G, inputs.seed)
            outcome.gradient_evaluations += G.counted(meter)
            if not mean > 0:
                raise InputError("the curvature of the retain set is zero, so it sets no damping; give damping=...")
            outcome.details["damping"] = self.relative_damping * mean
        found: float = outcome.details["damping"]
        return found

    def _gradients(self, model: Any, g: Vector, inputs: Inputs, outcome: Outcome) -> tuple[Vector, Vector]:
        """`(gradient of the retain risk, right-hand side v)`, penalties included."""
        theta = {name: p.detach() for name, p in trainable(model).items()}
        _, g_R = self.forget_gradient(model, inputs.some_retain(self.retain_samples), inputs, outcome)
        g_R = axpy(self.l2, theta, g_R)
        return g_R, right_hand_side(self.right_hand_side, axpy(self.l2, theta, g), g_R, len(inputs.forget) / len(inputs.retain))

    def _solve(self, H: EmpiricalRisk, v: Vector, damping: float, outcome: Outcome) -> Vector:
        solver = ConjugateGradients(damping + self.l2, max_steps=self.max_steps, stop="martens", linearize=self.linearize)
        solution = solve(H, v, solver, tolerance=self.tolerance, throw=False)
        _accept(solution)
        return outcome.take(solution)

    def _trust_region(self, model: Any, inputs: Inputs) -> Outcome:
        outcome, params = Outcome(model), trainable(model)
        damping, s, steps = self._damping(model, inputs, outcome), self._length(), self.steps or 1
        for k in inputs.keeper.steps(steps, outcome, inputs.passes, [Weights(model)]):
            if outcome.history:
                last = outcome.history[-1]
                damping = levenberg_marquardt(last["damping"], actual=last["actual"], predicted=last["predicted"])
            loss, g = self.forget_gradient(model, inputs.forget, inputs, outcome)
            g_R, v = self._gradients(model, g, inputs, outcome)
            H = self._operator(model, inputs)
            x = self._solve(H, v, damping, outcome)
            before = self._risk(model, H, params)
            predicted = 0.5 * s**2 * (dot(x, H @ x) + self.l2 * dot(x, x)) - s * dot(v, x)
            outcome.gradient_evaluations += 2 * H.sequences
            start = Start(model)
            start.go(x, s)
            actual = self._risk(model, H, params) - before - s * dot(axpy(1.0, g_R, v), x)
            kept = actual < 0
            outcome.history.append(
                {"forget_loss": loss, "damping": damping, "actual": actual, "predicted": predicted, "kept": float(kept)}
            )
            if not kept:
                start.back()
            if inputs.progress is not None:
                inputs.progress(k + 1, steps, loss)
        if not any(entry["kept"] for entry in outcome.history):
            outcome.warnings.append(f"{NOTHING}: every step made its own objective worse; raise damping=")
        return outcome

    def _risk(self, model: Any, H: EmpiricalRisk, params: Vector) -> float:
        theta = {name: p.detach() for name, p in params.items()}
        return mean_loss(model, H.batches) + 0.5 * self.l2 * dot(theta, theta)


@torch.no_grad()
def mean_diagonal(A: Operator, seed: int) -> float:
    """The mean of an operator's diagonal, tr(A) / P = E[z^T A z] / P over vectors z of random signs (Hutchinson 1989), drawn from
    the seed. Its relative standard deviation is at most sqrt(2 / PROBES), for a matrix of rank one. Cost: PROBES products."""
    generator, total = torch.Generator().manual_seed(seed), 0.0
    for _ in range(PROBES):
        # drawn on the CPU, so that a seed means the same on every device
        z = {name: (2 * torch.randint(0, 2, p.shape, generator=generator) - 1).to(p) for name, p in A.params.items()}
        total += dot(z, A @ z)
    return total / PROBES / A.size


def right_hand_side(kind: str, g_F: Vector, g_R: Vector, ratio: float) -> Vector:
    """v of the Newton system; `ratio` is n_F / n_R."""
    return scale(ratio, g_F) if kind == "forget" else scale(-1.0, g_R)


def _accept(solution: Solution) -> None:
    """An unfinished solve is still a direction of descent, and is reported; a broken one is refused."""
    if solution.reason in (Reason.NEGATIVE_CURVATURE, Reason.BREAKDOWN):
        raise NotConvergedError(solution)
