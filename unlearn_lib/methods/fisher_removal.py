r"""Fisher Removal, the paper's algorithm 2: a Newton step with the inverse empirical Fisher of D+.

    g = grad L(D-);    theta += gamma (F + lambda I)^{-1} g          F from D+ at theta, anew for every step

The preset `paper` is the algorithm as printed (equations 7 and 8, lambda = 1). The defaults are what measured best of its
options in version 0.1.0: in place of the empirical Fisher the true one (labels drawn from the model) by EK-FAC, little damping, four short
steps. Constrained Newton does better for less.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from unlearn_lib.curvature.vector import Vector
from unlearn_lib.methods.base import Inputs, Outcome
from unlearn_lib.methods.fisher import PAPER, FisherMethod


class FisherRemoval(FisherMethod):
    """Newton ascent on the forget loss, preconditioned by the retained data's Fisher.

    Options:
        step: gamma, or "calibrate": as far as the forget loss needs, which forward passes find (paper: 2.5e-4).
        steps: How often the direction is computed anew and followed (paper: 1).
    """

    name: ClassVar[str] = "fisher-removal"
    needs: ClassVar[tuple[str, ...]] = ("retain",)
    source: ClassVar[str] = "algorithm 2 of arXiv 2403.10557"
    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {**PAPER, "step": 2.5e-4, "steps": 1}}

    steps: int = Field(4, ge=1)

    def direction(self, model: Any, g: Vector, inputs: Inputs, outcome: Outcome) -> Vector:
        return self.fisher_power(model, g, -1.0, inputs, outcome)
