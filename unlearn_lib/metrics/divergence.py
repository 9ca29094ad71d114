r"""How far two models' predictions are apart: the mean over texts of the mean over scored tokens of KL(p_reference || p_model)."""

from __future__ import annotations

import math
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


def sequence_jensen_shannon(p_BSV: Tensor, q_BSV: Tensor, batch: Batch) -> Tensor:
    r"""`[B]`: for every sequence the mean over its scored tokens of the Jensen-Shannon divergence of the next token, in nats.

    It is $\tfrac12 KL(p, m) + \tfrac12 KL(q, m)$ with $m = (p + q) / 2$ (Lin 1991): symmetric, and between 0 and log 2. Unlike
    KL it stays finite where one model rules out a token that the other expects.

    Args:
        p_BSV, q_BSV, batch: As of `sequence_divergences`.
    """
    # a token that a model rules out has the log-probability -inf, and 0 times -inf would not be 0
    least = torch.finfo(p_BSV.dtype).min / 4
    p_BSV, q_BSV = p_BSV.clamp_min(least), q_BSV.clamp_min(least)
    m_BSV = torch.logaddexp(p_BSV, q_BSV) - math.log(2)
    return (sequence_divergences(p_BSV, m_BSV, batch) + sequence_divergences(q_BSV, m_BSV, batch)) / 2


@torch.no_grad()
def divergence(reference: Any, model: Any, batches: list[Batch]) -> float:
    """The mean over all sequences: the distance to retraining, where `reference` is the retrained model. 0 for equal predictions.

    Cost: a forward pass of each.
    """
    found = [sequence_divergences(log_probs(reference, batch), log_probs(model, batch), batch) for batch in batches]
    return torch.cat(found).double().mean().item()
