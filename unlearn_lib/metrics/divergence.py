r"""How far two models' predictions are apart: the mean over texts of the mean over scored tokens of KL(p_reference || p_model)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unlearn_lib.losses import IGNORED, Batch, sequence_means, token_logits


def log_probs(model: Any, batch: Batch) -> Tensor:
    """`[B, S, V]`: the log-probabilities of every next token. Cost: a forward pass."""
    return of_logits(token_logits(model, batch))


def of_logits(logits_BTV: Tensor) -> Tensor:
    """`[B, S, V]`: the log-probabilities of every next token, from what `token_logits` gives."""
    logits_BSV = logits_BTV[:, :-1]
    log_probs_BSV: Tensor = logits_BSV.to(torch.promote_types(logits_BSV.dtype, torch.float32)).log_softmax(-1)
    return log_probs_BSV


def sequence_divergences(p_BSV: Tensor, q_BSV: Tensor, batch: Batch) -> Tensor:
    """`[B]`: for every sequence the mean over its scored tokens of the divergence KL(p, q) of the next token, in nats.

    Args:
        p_BSV, q_BSV: The `log_probs` of the reference and of the model.
        batch: Where they were taken; its labels say which tokens are scored.
    """
    scored_BS = batch["labels"][:, -p_BSV.shape[1] :] != IGNORED
    kl_BS = (p_BSV.exp() * (p_BSV - q_BSV)).sum(-1).masked_fill(~scored_BS, 0.0)
    return sequence_means(kl_BS, scored_BS)


@torch.no_grad()
def divergence(reference: Any, model: Any, batches: list[Batch]) -> float:
    """The mean over all sequences: the distance to retraining, where `reference` is the retrained model. 0 for equal predictions.

    Cost: a forward pass of each.
    """
    found = [sequence_divergences(log_probs(reference, batch), log_probs(model, batch), batch) for batch in batches]
    return torch.cat(found).double().mean().item()
