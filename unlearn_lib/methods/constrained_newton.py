r"""Constrained Newton: forget as much as is wanted, and change what the model says of D+ as little as possible.

    minimise KL_R(theta)   subject to   L_F(theta) = goal                          by sequential quadratic programming

KL_R is the divergence from the original model's predictions on D+ (`Anchor`), L_F the mean NLL on D-, and K, the model of KL_R's
Hessian, the curvature of D+ (the Gauss-Newton matrix of the NLL is that of the KL). It is built once. With g the gradient that
forgets (`bounded_gradient`) and r = grad KL_R, every step solves with K + lambda I and moves by

    u = (K + lambda I)^{-1} g,    c = (K + lambda I)^{-1} r                        two solves, no new curvature
    m <- c + momentum m                                                            the correction and those before it
    t = m - (g.m / g.u) u                                                          along the constraint: g.t = 0
    theta <- theta + a u - eta t,    a = (goal - L_F) / slope                      (Nocedal and Wright 2006, section 18.1)

where slope = dL_F / da is measured on the way. With exact curvature, eta = 1 and no momentum this is the constrained optimum of a
quadratic. K-FAC knows only on average in which directions texts differ, and underestimates the curvature along r a hundred times and
more. So eta is a share of 2 KL_R / (r.t), Polyak's rule, and at most 1. With exact curvature that quotient is 1 or more: 1 where all of the
divergence can be taken back along the constraint. At the first step r = 0, and the step is that of Fisher Removal.

How far the optimum is: |t| / |c| in the metric of the solve (`optimality`), the part of r that is not along g.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from unlearn_lib.curvature import KFAC, EmpiricalFisher, invert, named_solver, plan, trainable
from unlearn_lib.curvature.kfac_cost import kfac_cost
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.rehearsal import Rehearsal
from unlearn_lib.curvature.vector import Vector, axpy, dot, norm
from unlearn_lib.methods.anchor import Anchor
from unlearn_lib.methods.base import Inputs, Outcome
from unlearn_lib.methods.budget import Prices, schedule
from unlearn_lib.methods.fisher import RELATIVE, once_relative
from unlearn_lib.methods.forgetting import bounded_gradient
from unlearn_lib.methods.plan import MethodPlan, backward_bytes, model_bytes, vector_bytes
from unlearn_lib.methods.reach import reach
from unlearn_lib.methods.resume import Named, Part, Weights
from unlearn_lib.methods.target import ACCEPTED, Calibrated, Start, Target, along, walk
from unlearn_lib.ranks import ranks
from unlearn_lib.shards import over_parts, own

LOOSE = 0.1
"""How near, as a share of the whole gap, the first step comes to its own goal: the later ones make up for it."""
LOOSE_STEP = 0.8
"""The same as a share of that step's own part of the gap: it has to move, since the others take their slope from it."""
CAUTION = 0.7
"""The share of the first length that linear extrapolation asks for: the loss bends upwards."""
FURTHEST = 0.5
"""How much of the whole gap a later step may go at most, by the measured slope."""
GROWTH = 1.5
"""How many times the last correction's length the next one may be: on texts seen before, Polyak's rule asks for more and more."""
DAMPING = {**RELATIVE, "kfac": 1e-3}
POSITIONS = 40
"""The positions of so many texts are enough for K-FAC's moments."""
LOOKS = 3
"""How often the limit's texts are looked at: before, at the end, and for the report."""
VECTORS = 5
"""Vectors on the parameters in memory at a time: g, u, m, and two while r or c is computed."""
AGAIN = {"block": 2 / 3, "woodbury": 2 / 3}
"""What a solve after the first one takes, in gradients of each text of the curvature: the products with kept factors."""


def tangent(g: Vector, u: Vector, m: Vector) -> Vector:
    """t = m - (g.m / g.u) u, for which g.t = 0."""
    return axpy(-dot(g, m) / dot(g, u), u, m)


def optimality(g: Vector, u: Vector, r: Vector, c: Vector) -> float:
    """|t| / |c| with t = `tangent(g, u, c)` and |x|^2 = x.(K + lambda I) x, which is the sine of the angle between r and g.

    0 at the constrained optimum, where r is a multiple of g (or 0); 1 where they are orthogonal.
    """
    whole = dot(r, c)
    return math.sqrt(max(0.0, 1 - dot(r, u) ** 2 / (dot(g, u) * whole))) if whole > 0 else 0.0


@dataclass
class Corrections:
    """The corrections so far: their sum with momentum, and the length of the last one."""

    momentum: float
    relaxation: float
    eta: float = math.inf
    m: Vector = field(default_factory=dict)

    def next(self, g: Vector, u: Vector, r: Vector, c: Vector, divergence: float) -> tuple[Vector, float]:
        """`(t, eta)`: the next correction is -eta t."""
        self.m = axpy(self.momentum, self.m, c) if self.m else c
        t = tangent(g, u, self.m)
        if dot(r, t) <= 0:  # the corrections before lead uphill here
            self.m, t = c, tangent(g, u, c)
        slope = dot(r, t)
        if slope <= 0:
            return t, 0.0
        share = min(1.0, 2 * max(0.0, divergence) / slope)  # rounding may leave a divergence of nothing below zero
        self.eta = min(self.relaxation * share, GROWTH * self.eta)
        return t, self.eta


@dataclass
class Course:
    """What the steps so far have shown of the forget loss: its slope against that of the bounded loss, and, of the last step, the loss
    before it and the rise that was promised."""

    slope: float = 1.0
    promised: tuple[float, float] = (0.0, 0.0)


class ConstrainedNewton(Calibrated):
    """Newton's method for keeping the original's predictions on D+ under the constraint that the forget loss is at its goal.

    Options:
        steps: Steps in all, the first of which has nothing to correct.
        approach: The steps in which the forget loss goes to its goal, in equal parts; the others correct.
        anchor_texts: Texts of D+ that a later step is corrected on; always the next ones.
        written: Once all of D+ has been used, go on with texts that the model itself writes, and not with D+ again.
        solver: The curvature: "kfac", "diagonal", "block", "woodbury", "dense", or "identity" for none.
        correction: With kfac: EK-FAC's eigenvalues, which fit the texts that they are computed from better, and others worse.
        terms: The largest number of texts of D+ that the curvature is computed from.
        positions: With kfac: the share of their positions that its moments are taken from; None for as many as a quarter of those of
            160 texts, which is all of them where D+ has at most 40.
        relative_damping: lambda over the mean of the curvature's diagonal; None for what measured best for the solver.
        q: Of the loss that forgets, (1 - p^q) / q: 0 for the NLL; the larger, the less do tokens push that are unknown already.
        momentum: The share of the corrections before that goes into the next one.
        relaxation: The share of 2 KL / (r.t) that a correction goes; 1 is Newton's own length where the curvature is exact.
        tolerance: Stop at the goal where the optimality residual (see above) is below this.
        budget: Gradients of single texts that may be spent, a forward pass counted as a third of one. It sets `steps`, `approach`,
            `anchor_texts` and, if need be, `terms`. With `retraining_epochs` it is a share of a retraining over D+.
        retraining_epochs: How many epochs that retraining would take.
    """

    name: ClassVar[str] = "constrained-newton"
    needs: ClassVar[tuple[str, ...]] = ("retain",)
    strength: ClassVar[str] = "target_loss"
    source: ClassVar[str] = "this library; sequential quadratic programming: Nocedal and Wright 2006, chapter 18"
    remedy: ClassVar[str] = "raise relative_damping=, or lower relaxation="

    steps: int = Field(10, ge=1)
    approach: int = Field(8, ge=1)
    anchor_texts: int = Field(32, ge=1)
    written: bool = False
    solver: Literal["kfac", "diagonal", "block", "woodbury", "dense", "identity"] = "kfac"
    correction: bool = False
    terms: int = Field(160, ge=1)
    positions: float | None = Field(None, gt=0, le=1)
    relative_damping: float | None = Field(None, gt=0)
    q: float = Field(0.75, ge=0, le=1)
    momentum: float = Field(0.7, ge=0, lt=1)
    relaxation: float = Field(0.5, gt=0, le=1)
    tolerance: float = Field(0.05, ge=0, lt=1)
    budget: float | None = Field(None, gt=0)
    retraining_epochs: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.retraining_epochs is not None and (self.budget is None or self.budget > 1):
            raise ValueError("retraining_epochs makes budget a share of a retraining; give a budget of at most 1")
        if self.budget is not None and self.solver != "kfac":
            raise ValueError(
                f"a budget can be planned with solver='kfac' only, not with {self.solver!r}; set steps= and anchor_texts="
            )
        return self

    @property
    def calibrates(self) -> bool:
        return True

    def within_budget(self, model: Any, inputs: Inputs, retained: int, checked: int = 0) -> Self:
        """The method with the options that its budget sets; itself where there is none. `retained` texts are all of D+, of which
        `checked` watch over the limit.

        Raises:
            InputError: The budget is too small.
        """
        if self.budget is None:
            return self
        whole = self.retraining_epochs * retained if self.retraining_epochs is not None else 1.0
        K = self._operator(model, inputs)
        assert isinstance(K, KFAC)
        cost = kfac_cost(K, Rehearsal(K))
        setup, solve = K.texts_worth(cost.once_flops), K.texts_worth(cost.product_flops)
        build = K.texts_worth(cost.flops - cost.once_flops) / K.sequences
        watched = LOOKS * checked + (len(inputs.holdout) if self.target_loss is None else 0)
        prices = Prices(build, solve, len(inputs.forget), len(inputs.retain), self.written, watched, setup)
        found = ranks().told(schedule(self.budget * whole, prices, K.sequences))[0]  # the same in every process
        values = {"steps": found.steps, "approach": found.approach, "anchor_texts": found.anchor_texts, "terms": found.terms}
        return self.model_copy(update={**values, "budget": None, "retraining_epochs": None})

    def plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        retained = len(inputs.retain)
        inputs, checked = self.split(inputs)
        own = self.within_budget(model, inputs, retained, len(checked))
        anchored = inputs.some_retain(own.anchor_texts)
        gradients: float = own.steps * len(inputs.forget) + (own.steps - 1) * own.anchor_texts
        backward = backward_bytes(model, inputs.batches([*inputs.forget, *anchored], model.device))
        building, kept, detail, solves = 0.0, 0.0, "no curvature", 2 * own.steps - 1
        if own.solver != "identity":
            K = own._operator(model, inputs)
            if isinstance(K, KFAC):
                cost = kfac_cost(K, Rehearsal(K))
                gradients += K.texts_worth(cost.flops + solves * cost.product_flops)
                building, kept, detail = cost.peak, cost.kept, f"K-FAC of {K.sequences} texts"
            else:
                found = plan(K, named_solver(own.solver, 1.0))  # no cost depends on the damping
                gradients += found.gradient_evaluations + K.sequences + (solves - 1) * AGAIN.get(own.solver, 0) * K.sequences
                building = kept = found.peak_memory_bytes
                detail = f"{found}, with {K.sequences} texts"
        stepping = kept + VECTORS * vector_bytes(model) + backward
        memory = 2 * model_bytes(model) + max(building + vector_bytes(model), stepping)
        detail = f"{own.steps} steps: {detail}, corrections on {own.anchor_texts} texts, and forward passes"
        return MethodPlan(gradients, memory, detail)

    def run(self, model: Any, inputs: Inputs) -> Outcome:
        outcome, retained = Outcome(model), len(inputs.retain)
        inputs, checked = self.split(inputs)
        target = self.target(model, inputs, checked)
        assert target is not None
        if target.met_already(outcome):
            return outcome
        own = self.within_budget(model, inputs, retained, len(checked))
        outcome.details |= {"steps": own.steps, "anchor_texts": own.anchor_texts}
        anchor = Anchor(model, inputs, own.written)
        reached, why = own._follow(model, inputs, target, anchor, outcome)
        if not target.within_limit(model, reached):
            moved = _put_back(model, anchor)
            _, reached, why = walk(model, moved, reached, target)
        target.note(outcome, reached, why)
        return outcome

    def _follow(self, model: Any, inputs: Inputs, target: Target, anchor: Anchor, outcome: Outcome) -> tuple[float, str | None]:
        """All steps: `(forget loss at the end, why it is not the goal)`."""
        forget = inputs.batches(inputs.forget, model.device)
        before, gap = target.forget_before, target.goal - target.forget_before
        solve = self._solver(model, inputs, outcome)
        corrections = Corrections(self.momentum, self.relaxation)
        parts: list[Part] = [
            Weights(model),
            Named(corrections, ("eta", "m")),
            Named(anchor, ("used",)),
            Named(course := Course(), ("slope", "promised")),
        ]
        for k in inputs.keeper.steps(self.steps, outcome, inputs.passes, parts):
            loss, g = bounded_gradient(model, forget, self.q)
            outcome.gradient_evaluations += len(inputs.forget)
            u = solve(g)
            if (gu := dot(g, u)) <= 0:
                return loss, "the gradient of the forget loss is zero"
            goal = before + gap * min(1.0, (k + 1) / self.approach)
            entry = {"forget_loss": loss}
            if k == 0:
                first = CAUTION * (goal - loss) / gu
                loose = min(LOOSE * abs(gap), LOOSE_STEP * abs(goal - loss))
                length, reached, _ = reach(along(Start(model), u, target), loss, goal, first, loose)
                distance = abs(length) * norm(u)
                course.slope = (reached - loss) / (length * gu) if length else course.slope
            else:
                if abs(course.promised[1]) > LOOSE / 2 * abs(gap):  # the last step went far enough to tell
                    course.slope *= min(max((loss - course.promised[0]) / course.promised[1], 0.5), 2.0)
                texts = anchor.next(self.anchor_texts)
                divergence, r = anchor.gradient(model, texts)
                outcome.gradient_evaluations += len(texts)
                c = solve(r)
                entry |= {"divergence": divergence, "optimality": optimality(g, u, r, c)}
                if entry["optimality"] <= self.tolerance and abs(loss - target.goal) <= target.tolerance:
                    outcome.history.append(entry)
                    break
                t, eta = corrections.next(g, u, r, c, divergence)
                length = math.copysign(min(abs(goal - loss), FURTHEST * abs(gap)), goal - loss) / (course.slope * gu)
                course.promised = loss, length * course.slope * gu
                distance = _move(model, length, u, -eta, t)
                entry["correction"] = eta
            outcome.history.append(entry | {"step": length, "step_norm": distance})
            if inputs.progress is not None:
                inputs.progress(k + 1, self.steps, loss)
        # what is missing, or too much, along the last direction
        loss = target.forget_loss(model)
        first = (target.goal - loss) / (course.slope * gu)
        _, reached, near = reach(along(Start(model), u, target), loss, target.goal, first, target.tolerance)
        if near or abs(reached - target.goal) <= ACCEPTED * target.tolerance:
            return reached, None
        return reached, "the forget loss does not reach the goal along the last direction"

    def _operator(self, model: Any, inputs: Inputs) -> KFAC | EmpiricalFisher:
        batches = inputs.batches(inputs.some_retain(self.terms), model.device)
        if self.solver == "kfac":
            positions = self.positions or min(1.0, POSITIONS / len(inputs.retain))
            return KFAC(model, batches, correction=self.correction, positions=positions, seed=inputs.seed)
        return EmpiricalFisher(model, batches)

    def _solver(self, model: Any, inputs: Inputs, outcome: Outcome) -> Callable[[Vector], Vector]:
        """v -> (K + lambda I)^{-1} v, with K at the model's parameters as they are now; its costs go to `outcome`."""
        if self.solver == "identity":
            return lambda v: v
        K = self._operator(model, inputs)
        outcome.details["terms"] = K.sequences
        damping = once_relative(K, self.relative_damping or DAMPING[self.solver], outcome)
        factored = {"factored": True} if self.solver == "kfac" and not self.correction else {}
        inverse = invert(K, named_solver(self.solver, damping, **factored))

        def solve(v: Vector) -> Vector:
            with torch.no_grad(), Meter() as meter:
                x = inverse.mv(K.own_form(v))
            outcome.gradient_evaluations += K.counted(meter)
            return x

        return solve


@torch.no_grad()
def _move(model: Any, a: float, u: Vector, b: float, t: Vector) -> float:
    """theta += a u + b t, which takes no further vector; returns the length of the step."""
    squares = 0.0
    for name, p in trainable(model).items():
        step = a * u[name] + b * t[name]
        p.add_(step)
        squares += own(step).double().square().sum().item()
    return math.sqrt(over_parts(squares, u))


@torch.no_grad()
def _put_back(model: Any, anchor: Anchor) -> Vector:
    """Give the model its original parameters; returns how far it had moved."""
    original, moved = dict(anchor.original.named_parameters()), dict[str, torch.Tensor]()
    for name, p in trainable(model).items():
        moved[name] = p - original[name]
        p.copy_(original[name])
    return moved
