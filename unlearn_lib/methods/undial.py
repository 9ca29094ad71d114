r"""UNDIAL: self-distillation with adjusted logits (Dong et al. 2024, arXiv 2402.10052).

    q_t = softmax( z_original,t - beta onehot(y_t) )
    L   = gamma mean_texts mean_t [ -sum_v q_t(v) log p_theta,t(v) ]

The teacher is the original model with the logit of every token to forget lowered by beta. Its predictions do not move, so the loss has
a minimum: p_theta = q, where the odds of y_t are e^-beta times what they were and those among the other tokens are unchanged. With
beta = 0 the model is distilled into itself and stays where it is.

The mean is over the tokens that are scored, text by text. (The port in OpenUnlearning averages over prompt and padding as well, and
lowers there the logit of the vocabulary's entry number -100, counted from its end.) The paper has no retain term; one can be added.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from unlearn_lib.losses import IGNORED, Batch, sequence_means
from unlearn_lib.methods.descent import RetainTerm, Step
from unlearn_lib.metrics.divergence import log_probs
from unlearn_lib.ranks import text_by_text


class UNDIAL(RetainTerm):
    """The original model as its own teacher, whose logits of the tokens to forget are lowered.

    Options:
        learning_rate: The learning rate of the optimiser (OpenUnlearning: 1e-4, with LoRA).
        beta: By how much the logit of a token to forget is lowered, in nats (OpenUnlearning: 10).
        retain_weight: The factor of a term that holds on to D+ (paper: 0, that is none; retained texts are not needed then).
    """

    name: ClassVar[str] = "undial"
    source: ClassVar[str] = "Dong et al. 2024 (arXiv 2402.10052)"
    needs: ClassVar[tuple[str, ...]] = ()

    learning_rate: float = Field(1e-4, gt=0)
    beta: float = Field(10.0, ge=0)
    retain_weight: float = Field(0.0, ge=0)

    @property
    def forgets_by_original(self) -> bool:
        return True

    def forget_loss(self, model: Any, step: Step) -> Tensor:
        def nats(batch: Batch) -> Tensor:
            labels_BS, q_BSV = self._taught(step.original, batch)
            nats_BS = -(q_BSV * log_probs(model, batch)).sum(-1)
            scored_BS = labels_BS != IGNORED
            return sequence_means(nats_BS.masked_fill(~scored_BS, 0.0), scored_BS)

        return text_by_text(nats, step.forget).mean()

    @torch.no_grad()
    def _taught(self, original: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """`(labels [B, S], what the teacher predicts in their places [B, S, V])`; where nothing is scored it means nothing."""
        teacher_BSV = log_probs(original, batch)
        labels_BS = batch["labels"][:, -teacher_BSV.shape[1] :]
        # scatter needs a valid index everywhere; the loss is masked
        index_BS1 = labels_BS.masked_fill(labels_BS == IGNORED, 0).unsqueeze(-1)
        lowered_BSV = teacher_BSV.scatter_add(-1, index_BS1, torch.full_like(index_BS1, -self.beta, dtype=teacher_BSV.dtype))
        return labels_BS, lowered_BSV.softmax(-1)
