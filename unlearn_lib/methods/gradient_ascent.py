r"""Gradient ascent, the paper's algorithm 1: one pass over the batches of D-, theta += l * grad L(batch)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from unlearn_lib.curvature import batch_gradient, trainable
from unlearn_lib.curvature.vector import dot
from unlearn_lib.methods.base import Inputs, Method, Outcome

ADAM_BETAS = (0.9, 0.98)  # Jang et al. 2023


class GradientAscent(Method):
    """Steps uphill on the forget loss.

    Options:
        step: l, the length factor of the gradient, or Adam's learning rate (paper: 5e-5, "the learning rate").
        optimizer: "sgd" takes the raw gradient, as algorithm 1 is printed; "adam" hands the negated loss to Adam, as the code of
            Jang et al. does, on whose evaluation the paper builds. The paper does not say which it used.
        forget_batch_size: Sequences in one batch of D-; the default is all of them, one step per call (the paper does not say).
    """

    name: ClassVar[str] = "gradient-ascent"
    source: ClassVar[str] = "algorithm 1 of arXiv 2403.10557"
    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"step": 5e-5, "optimizer": "sgd"}}

    step: float = Field(5e-5, gt=0)
    optimizer: Literal["sgd", "adam"] = "sgd"
    forget_batch_size: int | None = Field(None, ge=1)

    def run(self, model: Any, inputs: Inputs) -> Outcome:
        outcome = Outcome(model)
        params = trainable(model)
        optimizer = (
            torch.optim.SGD(params.values(), lr=self.step, maximize=True)
            if self.optimizer == "sgd"
            else torch.optim.Adam(params.values(), lr=self.step, betas=ADAM_BETAS, maximize=True)
        )
        for batch in inputs.forget_batches(self.forget_batch_size, model.device):
            loss, g = batch_gradient(model, batch)
            before = {name: p.detach().clone() for name, p in params.items()}
            for name, p in params.items():
                p.grad = g[name]
            optimizer.step()
            optimizer.zero_grad()
            moved = {name: p.detach() - before[name] for name, p in params.items()}
            outcome.gradient_evaluations += len(batch["input_ids"])
            outcome.history.append({"forget_loss": loss, "step_norm": dot(moved, moved) ** 0.5})
        return outcome
