r"""Negative preference optimisation (Zhang et al. 2024, arXiv 2404.05868) and its simplification (Fan et al. 2024, arXiv 2410.07163).

    NPO      -(2 / beta) mean log sigmoid( beta (NLL_theta(y) - NLL_original(y)) )          NLL summed over the sequence
    SimNPO   -(2 / beta) mean log sigmoid( beta (NLL_theta(y) / len(y) - delta) )           no reference model

Both slow down where a text is forgotten already; as beta tends to 0, NPO's gradient tends to that of ascent.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from unlearn_lib.losses import sequence_losses, summed_losses
from unlearn_lib.methods.descent import RetainTerm, Step


class NPO(RetainTerm):
    """The original model's own texts as what is not preferred.

    Options:
        beta: Inverse temperature (paper: 0.1).
    """

    name: ClassVar[str] = "npo"
    source: ClassVar[str] = "Zhang et al. 2024 (arXiv 2404.05868)"

    beta: float = Field(0.1, gt=0)

    @property
    def forgets_by_original(self) -> bool:
        return True

    def forget_loss(self, model: Any, step: Step) -> Tensor:
        return npo_loss(model, step, self.beta)


class SimNPO(RetainTerm):
    """NPO with the length-normalised loss and no reference.

    Options:
        beta: Inverse temperature (authors' code: 4.5).
        delta: The margin (authors' code: 0).
        forget_weight: The factor of the term that forgets (authors' code: 0.125).
    """

    name: ClassVar[str] = "simnpo"
    source: ClassVar[str] = "Fan et al. 2024 (arXiv 2410.07163)"

    beta: float = Field(4.5, gt=0)
    delta: float = 0.0
    forget_weight: float = Field(0.125, gt=0)

    def forget_loss(self, model: Any, step: Step) -> Tensor:
        return -2 / self.beta * logsigmoid(self.beta * (sequence_losses(model, step.forget) - self.delta)).mean()


def npo_loss(model: Any, step: Step, beta: float) -> Tensor:
    """The loss of NPO on the forget texts of a step, against its original model. Cost: a forward pass of each of the two models."""
    with torch.no_grad():
        reference_B = summed_losses(step.original, step.forget)
    return -2 / beta * logsigmoid(beta * (summed_losses(model, step.forget) - reference_B)).mean()
