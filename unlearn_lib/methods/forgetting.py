r"""What pushes a text out of a model: the generalised cross entropy of its tokens (Zhang and Sabuncu 2018, arXiv 1805.07836, eq. 6).

    L_q(y) = (1 - p(y)^q) / q,        grad L_q = p(y)^q grad NLL(y),        L_0 = NLL

The gradient of the negative log-likelihood is largest for tokens that the model does not know, and stays large however far they
have been driven up. That of L_q vanishes for tokens that are unknown, so that what is known is forgotten and nothing else moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from unlearn_lib.curvature.gradient import summed_gradient
from unlearn_lib.curvature.vector import Vector
from unlearn_lib.losses import Batch, sequence_means, token_logits, token_nll


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
    n = sum(len(batch["labels"]) for batch in batches)

    def loss_of(batch: Batch) -> tuple[Tensor, Tensor]:
        nll_BS, scored_BS = token_nll(token_logits(model, batch), batch["labels"])
        known_BS = nll_BS.detach()
        pushed_BS = nll_BS * (-q * known_BS).exp()
        nll = sequence_means(known_BS, scored_BS).double().sum() / n
        return sequence_means(pushed_BS, scored_BS).sum() / n, nll

    return summed_gradient(model, batches, loss_of, "the forget loss")
