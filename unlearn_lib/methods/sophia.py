r"""Sophia on an unlearning objective, which is SOUL (Jia et al. 2024, arXiv 2404.18239; Sophia: Liu et al. 2023, arXiv 2305.14342).

    L     = gamma L_forget + alpha L_retain                           gradient difference, L_forget = -mean NLL(D-), or NPO
    theta <- theta - lr clip(m / max(rho h, eps), 1)                  m, h: running means of grad L and of h_hat; see `sophia_step`

    gnb       h_hat: the Gauss-Newton diagonal of a mean NLL, estimated with labels drawn from the model; see `bartlett`
    squared   h_hat: the squared gradient of L on the step's own batch

L itself is not convex: its Gauss-Newton matrix is alpha times that of D+ minus gamma times that of D-, and no running mean of its diagonal
could stand in a denominator. So h is the curvature of a mean NLL, as in Sophia, and of the texts to keep: a coordinate on which the
predictions for D+ depend much moves little. The code that was released with SOUL takes "squared", where the labels are those of the texts
and the gradients of the two losses partly cancel, so that it estimates no Gauss-Newton matrix. It multiplies that by 5120, and takes the
gradient into m twice a step, so that after the first one m is 0.19 g instead of 0.1 g; the last is not offered here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from unlearn_lib.curvature.vector import Vector
from unlearn_lib.losses import sequence_losses
from unlearn_lib.methods.bartlett import bartlett_diagonal
from unlearn_lib.methods.base import Inputs, Outcome
from unlearn_lib.methods.descent import RetainTerm, Step
from unlearn_lib.methods.npo import npo_loss
from unlearn_lib.methods.plan import MethodPlan
from unlearn_lib.methods.sophia_step import SophiaStep

SOUL: dict[str, Any] = {"learning_rate": 5e-6, "epochs": 5, "forget_batch_size": 4, "retain_batch_size": 4}


class Sophia(RetainTerm):
    """A diagonal Newton step on a forget and a retain loss, clipped coordinate by coordinate.

    The history has the share of the moving coordinates that were clipped in each step ("clipped"); where it is 1, the step was that of the
    sign of the running mean of gradients.

    Options:
        optimizer: Sophia alone.
        objective: The term that forgets: "gradient-difference" (minus the forget loss) or "npo".
        npo_beta: NPO's inverse temperature, with objective="npo".
        diagonal: "gnb", the Gauss-Newton-Bartlett estimate (Sophia), or "squared", the squared gradient of the objective (SOUL's code).
        diagonal_of: With "gnb": the texts of the step that the estimate is of, "retain", "forget", or "both" as one set.
        squared_factor: With "squared": what the squared gradient is multiplied by (SOUL's code: 5120, whatever the batch).
        update_every: Steps from one estimate to the next, the first one before the first step (Sophia: 10).
        learning_rate: Of the optimiser, the longest step of a coordinate (SOUL: 5e-6).
        rho: The factor of the diagonal: the smaller, the more coordinates are clipped (SOUL: 0.04).
        beta1, beta2: How much of the running means of gradient and diagonal stays in an update (SOUL: 0.9 and 0.95).
        eps: The smallest denominator (Sophia: 1e-12).
        weight_decay: Decoupled, as in AdamW, of every parameter (SOUL's configuration: 0.1, without norms and biases).
    """

    name: ClassVar[str] = "sophia"
    source: ClassVar[str] = "SOUL, Jia et al. 2024 (arXiv 2404.18239); Sophia, Liu et al. 2023 (arXiv 2305.14342)"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "soul": SOUL,
        "released": {
            **SOUL,
            "retain_weight": 2.0,
            "diagonal": "squared",
            "squared_factor": 5120.0,
            "update_every": 1,
            "eps": 1e-15,
            "weight_decay": 0.1,
        },
    }

    optimizer: Literal["sophia"] = "sophia"  # type: ignore[assignment]
    objective: Literal["gradient-difference", "npo"] = "gradient-difference"
    npo_beta: float = Field(0.1, gt=0)
    diagonal: Literal["gnb", "squared"] = "gnb"
    diagonal_of: Literal["retain", "forget", "both"] = "retain"
    squared_factor: float = Field(1.0, gt=0)
    update_every: int = Field(10, ge=1)
    learning_rate: float = Field(5e-6, gt=0)
    rho: float = Field(0.04, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.95, ge=0, lt=1)
    eps: float = Field(1e-12, gt=0)
    weight_decay: float = Field(0.0, ge=0)

    @property
    def forgets_by_original(self) -> bool:
        return self.objective == "npo"

    def forget_loss(self, model: Any, step: Step) -> Tensor:
        if self.objective == "npo":
            return npo_loss(model, step, self.npo_beta)
        return -sequence_losses(model, step.forget).mean()

    def make_optimizer(self, params: Vector) -> SophiaStep:
        return SophiaStep(
            params.values(),
            lr=self.rate,
            betas=(self.beta1, self.beta2),
            rho=self.rho,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )

    def before_step(
        self, model: Any, optimizer: torch.optim.Optimizer, pieces: Sequence[Step], inputs: Inputs, outcome: Outcome
    ) -> None:
        number = len(outcome.history)
        if number % self.update_every:
            return
        assert isinstance(optimizer, SophiaStep)
        if self.diagonal == "squared":
            optimizer.curvature([self.squared_factor * _or_zero(p).square() for p in optimizer.params])
            return
        batches = [batch for step in pieces for batch in self._estimated(step.forget, step.retain)]
        estimate = bartlett_diagonal(model, batches, inputs.seed * 1_000_003 + number)
        optimizer.curvature(list(estimate.values()))
        outcome.gradient_evaluations += sum(len(batch["labels"]) for batch in batches)

    def observed(self, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        assert isinstance(optimizer, SophiaStep)
        return {"clipped": optimizer.clipped}

    @property
    def vectors(self) -> int:
        return 5  # an estimate is there beside gradient, start, m and h

    def plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        plan, (used, _) = super().plan(model, inputs), self.split(inputs)
        if self.diagonal == "squared":
            return plan
        steps = self.epochs * [len(batch) for batch in used.forget_batches(self.forget_batch_size)]
        retain = min(self.retain_batch_size, len(used.retain))
        texts = sum(sum(self._estimated(forget, retain)) for forget in steps[:: self.update_every])
        return replace(plan, gradient_evaluations=plan.gradient_evaluations + texts)

    def _estimated(self, forget: Any, retain: Any) -> list[Any]:
        """Of something of the forget and of the retain texts of a step, that of the texts which the estimate is of."""
        return {"retain": [retain], "forget": [forget], "both": [forget, retain]}[self.diagonal_of]


def _or_zero(p: Tensor) -> Tensor:
    return torch.zeros_like(p) if p.grad is None else p.grad
