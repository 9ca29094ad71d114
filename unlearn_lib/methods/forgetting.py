r"""What pushes a text out of a model: the generalised cross entropy of its tokens (Zhang and Sabuncu 2018, arXiv 1805.07836, eq. 6).

    L_q(y) = (1 - p(y)^q) / q,        grad L_q = p(y)^q grad NLL(y),        L_0 = NLL

The gradient of the negative log-likelihood is largest for tokens that the model does not know, and stays large however far they
have been driven up. That of L_q vanishes for tokens that are unknown, so that what is known is forgotten and nothing else moves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from unlearn_lib.curvature.gradient import trainable
from unlearn_lib.curvature.precision import in_full
from unlearn_lib.curvature.vector import Vector, all_finite
from unlearn_lib.errors import NumericsError
from unlearn_lib.losses import Batch, sequence_means, token_logits, token_nll, without_autocast


@without_autocast()
def bounded_gradient(model: Any, batches: Sequence[Batch], q: float) -> tuple[float, Vector]:
    """The mean NLL of some texts, and the gradient of their mean L_q: over each text's scored tokens, then over the texts.

    Args:
        model: Its trainable parameters are differentiated.
        batches: The texts.
        q: 0 for the NLL itself; the larger, the less do unknown tokens push; 1 for 1 - p.

    Returns:
        `(mean NLL in nats, gradient)`. Cost: one gradient.

    Raises:
        NumericsError: The loss or the gradient is not finite.
    """
    params = trainable(model)
    n = sum(len(batch["labels"]) for batch in batches)
    total, found = 0.0, dict[str, torch.Tensor]()
    for batch in batches:
        with in_full(params.values()):
            nll_BS, scored_BS = token_nll(token_logits(model, batch), batch["labels"])
            pushed_BS = nll_BS * (-q * nll_BS.detach()).exp()
            loss = sequence_means(pushed_BS, scored_BS).sum() / n
        grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True, materialize_grads=True)
        total += sequence_means(nll_BS.detach(), scored_BS).double().sum().item() / n
        if not all_finite((loss, *grads)) or not math.isfinite(total):
            raise NumericsError("the forget loss or its gradient is not finite: the model has diverged")
        for name, grad in zip(params, grads, strict=True):
            found[name] = found[name].add_(grad) if name in found else grad
    return total, found
