r"""Fisher Forgetting, the paper's algorithm 3: noise shaped by the inverse empirical Fisher of D+.

For every batch of D-:  F_m^{-1} from m batches of D+ (equations 7, 8);  M ~ N(0, I);  theta += (mu sigma^2)^{1/4} F_m^{-1/4} M.

As printed, the gradient of D- is computed and never used; only the number of its batches matters. It is not computed here.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from unlearn_lib.curvature import from_blocks, to_blocks, trainable
from unlearn_lib.curvature.vector import dot
from unlearn_lib.methods.base import Inputs, Outcome
from unlearn_lib.methods.fisher import FisherMethod


class FisherForgetting(FisherMethod):
    """Noise with covariance (mu sigma^2)^(1/2) F^(-1/2), one draw per batch of D-.

    Options:
        mu, sigma: The noise scale is (mu sigma^2)^(1/4) (paper: 1e-3 each, so 5.6e-3).
    """

    name: ClassVar[str] = "fisher-forgetting"
    needs: ClassVar[tuple[str, ...]] = ("retain",)
    source: ClassVar[str] = "algorithm 3 and equation 6 of arXiv 2403.10557"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"mu": 1e-3, "sigma": 1e-3, "damping": 1.0, "width": 48, "terms": 1024, "retain_batch_size": 8}
    }

    mu: float = Field(1e-3, gt=0)
    sigma: float = Field(1e-3, gt=0)

    def run(self, model: Any, inputs: Inputs) -> Outcome:
        outcome = Outcome(model)
        params = trainable(model)
        generator = torch.Generator().manual_seed(inputs.seed)
        scale = (self.mu * self.sigma**2) ** 0.25
        for draw in range(len(inputs.forget_batches(self.forget_batch_size, torch.device("cpu")))):
            recursion = self.inverse_fisher(model, inputs, outcome, draw)
            # drawn on the CPU, so that a seed means the same noise on every device
            normal = {name: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p) for name, p in params.items()}
            noise = from_blocks(recursion.apply_root(to_blocks(normal, self.width), 0.25), normal)
            with torch.no_grad():
                for name, p in params.items():
                    p.add_(noise[name], alpha=scale)
            outcome.history.append({"step_norm": scale * dot(noise, noise) ** 0.5})
        return outcome
