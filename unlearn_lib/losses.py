"""The one place where a batch becomes losses.

Shape suffixes: B sequences, T positions, S = T - 1 predictions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

IGNORED = -100
Batch = Mapping[str, Tensor]
Params = Mapping[str, Tensor]


def token_nll(logits_BTV: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of every label given the positions before it.

    Returns:
        `(nll_BS, scored_BS)`: nats, zero where not scored; and which predictions are scored. Prediction s is of label s + 1, so
        the first label of a sequence is never scored.
    """
    targets_BS = labels_BT[:, 1:]
    scored_BS = targets_BS != IGNORED
    # gather needs a valid index everywhere; the result is masked
    index_BS1 = targets_BS.masked_fill(~scored_BS, 0).unsqueeze(-1)
    # never below float32, whatever the model's number format
    log_probs_BSV = logits_BTV[:, :-1].to(torch.promote_types(logits_BTV.dtype, torch.float32)).log_softmax(-1)
    nll_BS = -log_probs_BSV.gather(-1, index_BS1).squeeze(-1)
    return nll_BS.masked_fill(~scored_BS, 0.0), scored_BS


def sequence_means(nll_BS: Tensor, scored_BS: Tensor) -> Tensor:
    """`[B]`: the mean over each sequence's scored tokens. A sequence without any is an error upstream (`encode`)."""
    return nll_BS.sum(-1) / scored_BS.sum(-1)


def model_inputs(batch: Batch) -> dict[str, Any]:
    """The arguments of a forward pass: the batch without its labels, and no key-value cache. `position_ids` `[B, T]`, where a batch
    has them (texts packed into one sequence, padding on the left), are the model's to obey."""
    given = {key: batch[key] for key in ("input_ids", "attention_mask", "position_ids") if key in batch}
    return {**given, "use_cache": False}


def sequence_losses(model: Any, batch: Batch) -> Tensor:
    r"""`[B]`: for every sequence the mean NLL over its scored tokens, $\ell_i = -\frac1{T_i}\sum_t \log p(y_t\mid y_{<t})$, in nats."""
    logits_BTV = model(**model_inputs(batch)).logits
    return sequence_means(*token_nll(logits_BTV, batch["labels"]))


def loss_function(model: Any) -> Callable[[Params, Batch], Tensor]:
    """The same as a pure function `(params, batch) -> [B]`, for automatic differentiation in the parameters."""

    def losses(params: Params, batch: Batch) -> Tensor:
        logits_BTV = functional_call(model, dict(params), kwargs=model_inputs(batch)).logits
        return sequence_means(*token_nll(logits_BTV, batch["labels"]))

    return losses


@torch.no_grad()
def evaluate(model: Any, batches: list[Batch]) -> Tensor:
    """`[n]`: the losses of all sequences, in order. One forward pass; the model's mode is left as it is."""
    return torch.cat([sequence_losses(model, batch) for batch in batches])


def mean_loss(model: Any, batches: list[Batch]) -> float:
    """The loss of a set: the mean of its sequences' losses. Cost: one forward pass."""
    return evaluate(model, batches).double().mean().item()
