r"""Fisher Removal, the paper's algorithm 2: a Newton step with the inverse empirical Fisher of D+.

For every batch of D-:  g = grad L(batch);  F_m^{-1} from m batches of D+ (equations 7, 8);  theta += gamma F_m^{-1} g.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from unlearn_lib.curvature import batch_gradient, from_blocks, to_blocks, trainable
from unlearn_lib.curvature.vector import dot
from unlearn_lib.methods.base import Inputs, Outcome
from unlearn_lib.methods.fisher import FisherMethod


class FisherRemoval(FisherMethod):
    """Newton ascent on the forget loss, preconditioned by the retained data's Fisher.

    Options:
        step: gamma (paper: 2.5e-4).
    """

    name: ClassVar[str] = "fisher-removal"
    needs: ClassVar[tuple[str, ...]] = ("retain",)
    source: ClassVar[str] = "algorithm 2 of arXiv 2403.10557"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"step": 2.5e-4, "damping": 1.0, "width": 48, "terms": 1024, "retain_batch_size": 8}
    }

    step: float = Field(2.5e-4, gt=0)

    def run(self, model: Any, inputs: Inputs) -> Outcome:
        outcome = Outcome(model)
        params = trainable(model)
        for draw, batch in enumerate(inputs.forget_batches(self.forget_batch_size, model.device)):
            loss, g = batch_gradient(model, batch)
            outcome.gradient_evaluations += len(batch["input_ids"])
            recursion = self.inverse_fisher(model, inputs, outcome, draw)
            newton = from_blocks(recursion.apply(to_blocks(g, self.width)), g)
            with torch.no_grad():
                for name, p in params.items():
                    p.add_(newton[name], alpha=self.step)
            lengths = (dot(newton, newton) * dot(g, g)) ** 0.5
            outcome.history.append(
                {
                    "forget_loss": loss,
                    "step_norm": self.step * dot(newton, newton) ** 0.5,
                    "cosine_to_gradient": dot(newton, g) / lengths if lengths else 0.0,
                }
            )
        return outcome
