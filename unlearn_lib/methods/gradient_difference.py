r"""Gradient difference: ascent on D-, descent on D+ at the same time (Liu et al. 2022, arXiv 2203.12817; as in TOFU).

L = -gamma mean NLL(D-) + alpha [ mean NLL(D+)  or  mean KL(p_original, p_theta)(D+) ]
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from unlearn_lib.losses import sequence_losses
from unlearn_lib.methods.descent import RetainTerm, Step


class GradientDifference(RetainTerm):
    """Minus the forget loss plus a retain term."""

    name: ClassVar[str] = "gradient-difference"
    source: ClassVar[str] = "Liu et al. 2022 (arXiv 2203.12817), as in TOFU (arXiv 2401.06121)"

    def forget_loss(self, model: Any, step: Step) -> Tensor:
        return -sequence_losses(model, step.forget).mean()
