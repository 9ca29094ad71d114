r"""A few uphill Gauss-Newton steps with K-FAC: the idea of K-FADE (arXiv 2602.10568), after its abstract; no code of it is public.

    theta += step (K + lambda I)^{-1} grad L(D-),    K: (EK-)FAC of the Gauss-Newton matrix of D+, anew for every step

The Gauss-Newton matrix measures how much the predictions on D+ change, so that the step raises the forget loss where that
changes them least.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from unlearn_lib.curvature import KFAC, Kronecker, solve
from unlearn_lib.curvature.vector import Vector
from unlearn_lib.methods.base import Inputs, Outcome
from unlearn_lib.methods.direction import DirectionMethod
from unlearn_lib.methods.fisher import FORGIVING, once_relative
from unlearn_lib.methods.plan import MethodPlan, kfac_plan


class KFACNewton(DirectionMethod):
    """Ascent on the forget loss, preconditioned by K-FAC of the retained data.

    Options:
        relative_damping: lambda over the mean of K's diagonal before the first step.
        correction: EK-FAC's eigenvalues instead of K-FAC's.
        samples: Draws of the labels.
        max_side: Longest side that is decomposed.
        retain_samples: The most sequences of D+ that curvature is computed from.
    """

    name: ClassVar[str] = "kfac-newton"
    needs: ClassVar[tuple[str, ...]] = ("retain",)
    source: ClassVar[str] = "after the abstract of arXiv 2602.10568 (K-FADE); EK-FAC: arXiv 1806.03884"

    steps: int = Field(4, ge=1)
    relative_damping: float = Field(1e-2, gt=0)
    correction: bool = True
    samples: int = Field(1, ge=1)
    max_side: int = Field(4096, ge=1)
    retain_samples: int = Field(1024, ge=1)

    def curvature_plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        K = self._operator(model, inputs, 0)
        return kfac_plan(K, f"{'EK-FAC' if self.correction else 'K-FAC'} of {K.sequences} texts, estimated")

    def _operator(self, model: Any, inputs: Inputs, draw: int) -> KFAC:
        batches = inputs.batches(inputs.some_retain(self.retain_samples), model.device)
        options: dict[str, Any] = {"correction": self.correction, "samples": self.samples, "max_side": self.max_side}
        return KFAC(model, batches, seed=inputs.seed + draw, **options)

    def direction(self, model: Any, g: Vector, inputs: Inputs, outcome: Outcome) -> Vector:
        K = self._operator(model, inputs, len(outcome.history))
        damping = once_relative(K, self.relative_damping, outcome)
        return outcome.take(solve(K, K.own_form(g), Kronecker(damping), tolerance=FORGIVING))
