r"""Certified removal by one Newton step (Guo et al. 2020, arXiv 1911.03030), for the head of a language model on a frozen body.

`train_certified_head` has minimised, over n texts with the mean losses l_i and with noise B drawn once,

    L(W) = sum_i l_i(W) + Lambda / 2 |W - W_0|^2 + <B, W>,    Lambda = lambda n.

To remove the texts S, the step towards the minimum of L_{-S}, the same sum without them, is

    W <- W + H_{-S}^{-1} sum_{i in S} grad l_i(W),    H_{-S} = sum_{i not in S} H_i + Lambda I

by conjugate gradients. (Where the head was trained with penalty="per-text", as in the source, Lambda falls to Lambda' =
lambda (n - |S|), which adds (Lambda - Lambda')(W - W_0) to the sum.) A bound `spent` on |grad L(W)| for the texts that are left is
carried along:

    spent <- spent + |what the solver leaves| + bound on |R|,    R: what the quadratic model of L_{-S} leaves out

beginning with the training's own residual. `unlearn_lib.methods.certificate` derives the bounds and what `spent` means: the removal is
(epsilon, delta)-certified, that is, the head is as hard to tell from the exact minimum without all texts removed so far, up to
(epsilon, delta), while spent <= sigma epsilon / sqrt(2 log(1.5 / delta)). As L is Lambda-strongly convex, the head is also no farther
than spent / Lambda from that minimum.

What the certificate says and what it does not. It is for the weights of one head at a time: not for two of them side by side (before
and after a removal), nor for the bounds, the report and the stored state, which are computed from the texts. It assumes that the body
never saw the texts, which the caller states, and that B stays secret. As in the source, bounds may depend on the data, and the proof of
its theorem averages over the gradient that is left as if it did not depend on B; an optimiser that wrote B into the last digits of W
would keep every bound and no secret. Rounding in float64 is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from unlearn_lib.curvature import ConjugateGradients, EmpiricalFisher, NotConvergedError, Reason, Solution, solve
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.softmax_head import CHUNK, WEIGHT, HeadHessian, HeadRisk
from unlearn_lib.data.examples import by_text
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.methods.base import Inputs, Method, Outcome
from unlearn_lib.methods.certificate import Accounting, allowed_residual, data_bound, epsilon_spent, source_bound, worst_bound
from unlearn_lib.methods.certified_checks import asked_keys, certificate_of, checked
from unlearn_lib.methods.plan import MethodPlan, model_bytes
from unlearn_lib.models.certified import Certificate, certify, set_head

ROUNDING = 1e-12
"""Rounding of a gradient, relative to the sum of the norms of its terms."""


class CertifiedNewton(Method):
    """Newton removal from the head alone, with a certificate; of a model that `train_certified_head` has made.

    Options:
        epsilon: What all removals together may spend; a request that would go beyond it is refused.
        delta: The chance that epsilon does not hold; well below one over the number of texts.
        accounting: "classical", the source's theorem, which is proved for epsilon up to 1; or "exact", the exact statement on Gaussian
            noise, for any epsilon, which allows about a third more.
        bound: What is spent for a step: "data", computed from the step and the texts that stay; "worst", which holds for all texts; or
            "measured", where the norm of the gradient itself, computed after the step, replaces the sum so far.
        at_a_time: Texts that leave with one step; None for all at once. A bound grows with the square of their number, so that single
            steps spend least, at the cost of a linear solve each.
        tolerance: The relative residual of the solve. What it leaves is spent.
        max_steps: Hessian products of a solve. Where they end before the tolerance, the larger residual is spent.
    """

    name: ClassVar[str] = "certified-newton"
    source: ClassVar[str] = "Guo et al. 2020 (arXiv 1911.03030), with bounds of our own for softmax"
    strength: ClassVar[str] = "epsilon"
    form: ClassVar[str] = "certified"
    remedy: ClassVar[str] = "train the head with a larger weight_decay"

    epsilon: float = Field(1.0, gt=0)
    delta: float = Field(1e-5, gt=0, lt=1)
    accounting: Accounting = "classical"
    bound: Literal["data", "worst", "measured"] = "data"
    at_a_time: int | None = Field(1, ge=1)
    tolerance: float = Field(1e-8, gt=0, lt=1)
    max_steps: int = Field(500, ge=1)

    @model_validator(mode="after")
    def _proved(self) -> Self:
        if self.accounting == "classical" and self.epsilon > 1:
            raise ValueError(f"epsilon={self.epsilon:g}: the source's theorem is proved up to 1; set accounting='exact'")
        return self

    def run(self, model: Any, inputs: Inputs) -> Outcome:
        outcome = Outcome(model)
        with torch.no_grad():
            before = checked(model, inputs)
            with Meter() as meter:
                state = self._remove(before, model.device, inputs, outcome)
            set_head(model, state.head_Vd)
        outcome.gradient_evaluations = _gradients(model, inputs).texts_worth(meter.flops)
        outcome.model = certify(model, state)
        outcome.details |= self._account(state, outcome.history)
        outcome.warnings.append(
            "the folder that the model was loaded from still holds the removed texts, as tokens and features; remove it once the new "
            "one is saved"
        )
        return outcome

    def _remove(self, before: Certificate, device: torch.device, inputs: Inputs, outcome: Outcome) -> Certificate:
        """The state after all steps, each in the outcome's history."""
        state = before
        allowed = allowed_residual(state.sigma, self.epsilon, self.delta, self.accounting)
        keys = asked_keys(inputs)
        size = self.at_a_time or len(keys)
        groups = [keys[start : start + size] for start in range(0, len(keys), size)]
        for k, group in enumerate(groups):
            state, entry, solution = self.step(state, state.numbers(group), device)
            outcome.solution = solution
            outcome.history.append(entry)
            if state.spent > allowed:
                self._refuse(before, state, allowed, k + 1, len(groups))
            if inputs.progress is not None:
                inputs.progress(k + 1, len(groups), entry["forget_loss"])
        return state

    def step(
        self, state: Certificate, numbers: Sequence[int], device: torch.device | str = "cpu"
    ) -> tuple[Certificate, dict[str, float], Solution]:
        """One removal, whatever it spends: the state after it, what is to be said of it, and its linear solve.

        Args:
            state: The certificate before.
            numbers: The places of the texts that leave, among those of the state; not all of them.
            device: Where it is computed.

        Raises:
            NumericsError: A number is not finite, or the measured gradient is above its bound, so that an assumption does not hold.
        """
        gone, stay = (HeadRisk(texts, device) for texts in (state.texts.only(numbers), state.texts.without(numbers)))
        W_Vd, center_Vd = state.head_Vd.to(device), state.center_Vd.to(device)
        n = gone.texts + stay.texts
        before, after = state.convexity(n), state.convexity(stay.texts)
        v_Vd = gone.gradient(W_Vd) + (before - after) * (W_Vd - center_Vd)
        solver = ConjugateGradients(after, max_steps=self.max_steps)
        solution = solve(HeadHessian(stay, W_Vd), {WEIGHT: v_Vd}, solver, tolerance=self.tolerance, throw=False)
        if solution.reason in (Reason.BREAKDOWN, Reason.NEGATIVE_CURVATURE):
            raise NotConvergedError(solution)
        assert isinstance(solution.value, dict)
        D_Vd = solution.value[WEIGHT]
        bounds = _bounds(state, gone, stay, D_Vd, solution.residual)
        left = solution.residual * float(v_Vd.norm())
        sums = {name: state.spent + left + bound for name, bound in bounds.items()}
        new = replace(
            state, head_Vd=(W_Vd + D_Vd).cpu(), texts=state.texts.without(numbers), removed=state.removed + gone.texts
        )
        residual = float(new.gradient(stay).norm())
        rounding = ROUNDING * (math.sqrt(2) * stay.largest_norm() * n + float(state.noise_Vd.norm()))
        sums["measured_bound"] = residual + rounding
        if not residual <= sums["data_bound"] + rounding:
            raise NumericsError(
                f"the gradient after the step has the norm {residual:.3g}, above its bound {sums['data_bound']:.3g}, so something that the "
                "bound rests on does not hold (the stored state was changed, or its numbers are too large for float64); train the head "
                "anew"
            )
        new = replace(new, spent=sums[f"{self.bound}_bound"])
        entry = {
            "texts": gone.texts,
            "forget_loss": gone.loss(W_Vd) / gone.texts,
            "step_norm": float(D_Vd.norm()),
            "solver_residual": left,
            **bounds,
            "spent": new.spent,
            "residual": residual,
        }
        return new, entry, solution

    def _account(self, state: Certificate, history: Sequence[dict[str, float]]) -> dict[str, Any]:
        """What is said of the certificate after the last step."""
        allowed = allowed_residual(state.sigma, self.epsilon, self.delta, self.accounting)
        return {
            "epsilon_spent": epsilon_spent(state.spent, state.sigma, self.delta, self.accounting),
            "delta": self.delta,
            "spent": state.spent,
            "allowed": allowed,
            "residual": history[-1]["residual"],
            "bounds": {
                name: sum(entry[name] for entry in history)
                for name in ("solver_residual", "data_bound", "source_bound", "worst_bound")
            },
            "distance_bound": state.spent / state.convexity(len(state.texts)),
            "removed": state.removed,
            "texts_left": len(state.texts),
            "assumed": "all but the head never saw the removed texts (stated by who trained it), and the noise is secret",
        }

    def _refuse(self, before: Certificate, state: Certificate, allowed: float, step: int, steps: int) -> None:
        at = f"step {step} of {steps}" if steps > 1 else "this request"
        raise InputError(
            f"the budget is spent: {before.spent:.3g} before, {state.spent:.3g} after {at}, and {allowed:.3g} is allowed at "
            f"epsilon={self.epsilon:g} and delta={self.delta:g}; nothing was removed. Train the head anew without these texts "
            f"(train_certified_head; it took {before.products} products with the head's Hessian), with a larger weight_decay or sigma for "
            "more removals, or allow a larger epsilon"
        )

    def plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        state = certificate_of(model)
        texts, (V, d), N = state.texts, state.head_Vd.shape, len(state.texts.labels_N)
        removed = len(by_text(inputs.forget))
        steps = -(-removed // (self.at_a_time or removed))
        products = self.solve_steps(state, max(1, len(texts) - removed))
        one_chunk = N * V <= CHUNK
        # recomputed residuals, the two gradients, the probabilities, and two products for the bounds, beside the products of the solve
        flops = (products + products // 25 + 1) * (4 if one_chunk else 6) * N * V * d + 18 * N * V * d
        count = steps * _gradients(model, inputs).texts_worth(flops)
        memory = model_bytes(model) + 8 * (2 * N * d + 5 * min(N * V, CHUNK) + 10 * V * d)
        return MethodPlan(
            count, memory, f"{steps} step{'s' if steps > 1 else ''} of at most {products} products with the head's Hessian"
        )

    def solve_steps(self, state: Certificate, n: int) -> int:
        """Products that a solve takes at most, by the condition number: |C(p)| <= 1/2, so that it is 1 + |A|^2 / (2 Lambda) at most."""
        norm = HeadRisk(state.texts).spectral_norm()
        root = math.sqrt(1 + norm**2 / (2 * state.convexity(n)))
        return min(self.max_steps, math.ceil((root + 1) / 2 * math.log(2 * root / self.tolerance)))


def _bounds(state: Certificate, gone: HeadRisk, stay: HeadRisk, D_Vd: Tensor, solver: float) -> dict[str, float]:
    """The three bounds of |R| for a step D whose linear solve has the relative residual `solver`."""
    n, radius = gone.texts + stay.texts, max(gone.largest_norm(), stay.largest_norm())
    before, after = state.convexity(n), state.convexity(stay.texts)
    rest = float(state.noise_Vd.norm()) + state.spent
    return {
        "data_bound": data_bound(stay, D_Vd),
        "source_bound": source_bound(stay, D_Vd),
        "worst_bound": worst_bound(n, gone.texts, radius, before, after, rest=rest, solver=solver),
    }


def _gradients(model: Any, inputs: Inputs) -> EmpiricalFisher:
    """What FLOPs are counted in: gradients of the whole model on the texts to forget."""
    return EmpiricalFisher(model, inputs.batches(inputs.forget, model.device))
