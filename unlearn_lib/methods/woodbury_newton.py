r"""One Newton step without the retain set: the forget set's curvature through Woodbury's identity, the idea of WIN-U
(arXiv 2604.13438), after its abstract; no code of it is public.

The retain curvature is the whole one less the forget set's, n_R H_R = n H - n_F F_F, so that with H = h I

    theta += step (I - c F_F)^{-1} g_F,    (I - c G^T G / n_F)^{-1} g_F = g_F + G^T U diag(c / (n_F - c s)) U^T G g_F,

where G G^T = U diag(s) U^T, and c = share / largest eigenvalue of F_F. WIN-U has H from training; kept as h I here, it needs
nothing but the forget set, and c says how much of the isotropic curvature the forget set's own makes up in its stiffest
direction (0: gradient ascent).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field

from unlearn_lib.curvature import EmpiricalFisher, Woodbury, plan
from unlearn_lib.curvature.vector import Vector, add
from unlearn_lib.methods.base import Inputs, Outcome
from unlearn_lib.methods.direction import DirectionMethod
from unlearn_lib.methods.plan import MethodPlan


class WoodburyNewton(DirectionMethod):
    """Ascent on the forget loss, its own curvature taken out of an isotropic whole.

    Options:
        retain_limit: When calibrating, the retain loss may rise by at most this times the rise of the forget loss; None for no limit,
            so that no retained text is needed.
        share: Part of the whole curvature that the forget set's makes up in its stiffest direction, below 1.
    """

    name: ClassVar[str] = "woodbury-newton"
    source: ClassVar[str] = "after the abstract of arXiv 2604.13438 (WIN-U)"

    retain_limit: float | None = Field(None, gt=0)
    share: float = Field(0.9, ge=0, lt=1)

    def curvature_plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        F = EmpiricalFisher(model, inputs.batches(inputs.forget, model.device))
        found = plan(F, Woodbury(damping=1.0))  # no cost depends on the damping
        return MethodPlan(found.gradient_evaluations, found.peak_memory_bytes, str(found))

    def direction(self, model: Any, g: Vector, inputs: Inputs, outcome: Outcome) -> Vector:
        F = EmpiricalFisher(model, inputs.batches(inputs.forget, model.device))
        gradients = F.gradients()
        own = F.own_form(g)
        K_nn, w_n = gradients.gram(own)
        assert w_n is not None
        s_n, U_nn = torch.linalg.eigh(K_nn)
        n = len(s_n)
        c = self.share * n / s_n[-1]
        outcome.gradient_evaluations += 2 * n
        return add(own, gradients.adjoint(U_nn @ ((c / (n - c * s_n)) * (U_nn.T @ w_n))))
