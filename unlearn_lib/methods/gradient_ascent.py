r"""Gradient ascent, the paper's algorithm 1: one pass over the batches of D-, theta += l * grad L(batch)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from unlearn_lib.curvature import batch_gradient, trainable
from unlearn_lib.curvature.gradient import dot
from unlearn_lib.methods.base import Inputs, Method, Outcome


class GradientAscent(Method):
    """Raw ascent steps along the gradient of the forget loss.

    Options:
        step: l, the length factor of the gradient (paper: 5e-5).
        forget_batch_size: Sequences in one batch of D-; the default is all of them, one step per call (the paper does not say).
    """

    name: ClassVar[str] = "gradient-ascent"
    source: ClassVar[str] = "algorithm 1 of arXiv 2403.10557"
    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"step": 5e-5}}

    step: float = Field(5e-5, gt=0)
    forget_batch_size: int | None = Field(None, ge=1)

    def run(self, model: Any, inputs: Inputs) -> Outcome:
        outcome = Outcome(model)
        params = trainable(model)
        for batch in inputs.forget_batches(self.forget_batch_size, model.device):
            loss, g = batch_gradient(model, batch)
            with torch.no_grad():
                for name, p in params.items():
                    p.add_(g[name], alpha=self.step)
            outcome.gradient_evaluations += len(batch["input_ids"])
            outcome.history.append({"forget_loss": loss, "step_norm": self.step * dot(g, g) ** 0.5})
        return outcome
