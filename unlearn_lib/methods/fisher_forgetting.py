r"""Fisher Forgetting, the paper's algorithm 3: noise shaped by the inverse empirical Fisher of D+.

    M ~ N(0, I);    theta += (mu sigma^2)^{1/4} (F + lambda I)^p M,    p = -1/4    for every batch of D-     (equation 6)

Golatkar et al. (arXiv 1911.04933) scrub with noise of covariance F^{-1/2}, as here; their published code has standard deviations
F^{-1/2}, that is p = -1/2. As printed, the gradient of D- is computed and never used; it is not computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field

from unlearn_lib.curvature import trainable
from unlearn_lib.curvature.vector import Vector
from unlearn_lib.data.batches import Example
from unlearn_lib.losses import mean_loss
from unlearn_lib.methods.base import Inputs, Outcome
from unlearn_lib.methods.fisher import PAPER, FisherMethod


class FisherForgetting(FisherMethod):
    """Noise with covariance (mu sigma^2)^(1/2) F^(2p), one draw per batch of D-.

    Options:
        mu, sigma: The noise scale is (mu sigma^2)^(1/4) (paper: 1e-3 each, so 5.6e-3).
        exponent: p, -1/4 (paper) or -1/2 (the code of Golatkar et al.); the recursion, block, woodbury, diagonal and kfac know both.
        step: A factor on the noise (paper: 1), or "calibrate": the scale at which a fixed draw forgets enough.
    """

    name: ClassVar[str] = "fisher-forgetting"
    needs: ClassVar[tuple[str, ...]] = ("retain",)
    source: ClassVar[str] = "algorithm 3 and equation 6 of arXiv 2403.10557"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {**PAPER, "mu": 1e-3, "sigma": 1e-3, "exponent": -0.25, "step": 1.0}
    }

    solver: Literal["block", "woodbury", "diagonal", "kfac", "recursion", "dense", "identity"] = "block"
    mu: float = Field(1e-3, gt=0)
    sigma: float = Field(1e-3, gt=0)
    exponent: float = Field(-0.25, ge=-1, lt=0)

    def forget_gradient(self, model: Any, batch: Sequence[Example], inputs: Inputs, outcome: Outcome) -> tuple[float, Vector]:
        inputs.passes.forward += len(batch)
        return mean_loss(model, inputs.batches(batch, model.device)), {}

    @property
    def unit(self) -> float:
        scale: float = (self.mu * self.sigma**2) ** 0.25
        return scale

    def direction(self, model: Any, g: Vector, inputs: Inputs, outcome: Outcome) -> Vector:
        generator = torch.Generator().manual_seed(inputs.seed + 1_000_003 * len(outcome.history))
        # drawn on the CPU, so that a seed means the same noise on every device
        normal = {
            name: torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p) for name, p in trainable(model).items()
        }
        return self.fisher_power(model, normal, self.exponent, inputs, outcome)
