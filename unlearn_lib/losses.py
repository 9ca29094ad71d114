"""The one place where a batch becomes logits and losses.

Shape suffixes: B sequences, T positions, S predictions, V vocabulary. A model predicts all tokens of a text but the first,
S = T - 1. One that puts virtual tokens before the text (prompt tuning, p-tuning) predicts the first one, too: S = T.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from unlearn_lib.errors import InputError
from unlearn_lib.ranks import Batch as Batch
from unlearn_lib.ranks import alone, ranks, text_by_text

IGNORED = -100
Params = Mapping[str, Tensor]
AUTOCAST = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def without_autocast() -> Iterator[None]:
    """Leave a `torch.autocast` of the caller inside: a derivative in bfloat16 is wrong by parts in a hundred. Also a decorator."""
    with ExitStack() as stack:
        for kind in AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def token_logits(model: Any, batch: Batch, params: Params | None = None) -> Tensor:
    """The logits of a batch, aligned with its tokens: the last T rows belong to the T tokens of every text.

    Args:
        model: A causal language model, in the mode that it is in.
        batch: `input_ids` and `attention_mask`, `[B, T]`.
        params: Parameters to use in place of the model's own.

    Returns:
        `[B, T, V]`, or where the model puts virtual tokens before the text `[B, T + 1, V]`: the row before the text predicts
        its first token, as in peft's own loss. `targets` gives the labels that belong to them.

    Raises:
        InputError: The model's logits are not one row or more for every token.

    Cost: a forward pass.
    """
    B, T = batch["input_ids"].shape
    with without_autocast():
        inputs = model_inputs(batch)
        found = model(**inputs) if params is None else functional_call(model, dict(params), kwargs=inputs)
    logits: Tensor = found.logits
    if logits.ndim != 3 or len(logits) != B or logits.shape[1] < T:
        raise InputError(
            f"the model gives logits of shape {tuple(logits.shape)} for {B} texts of {T} tokens, so they cannot be aligned with the "
            "labels; this takes a causal language model, which gives one row of logits for every token"
        )
    return logits[:, -(T + 1) :]


def targets(logits: Tensor, labels_BT: Tensor) -> Tensor:
    """`[B, S]`: the labels that all rows of logits but the last predict; `logits` as `token_logits` gives them, `[B, S + 1, ..]`."""
    return labels_BT[:, labels_BT.shape[1] - logits.shape[1] + 1 :]


def wide_log_softmax(logits: Tensor) -> Tensor:
    """The log-probabilities of logits over their last axis, never below float32, whatever the model's number format."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def token_nll(logits_BTV: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of every label given the positions before it.

    Args:
        logits_BTV: As `token_logits` gives them.
        labels_BT: The labels, unshifted.

    Returns:
        `(nll_BS, scored_BS)`: nats, zero where not scored; and which predictions are scored. Where there are as many rows of
        logits as labels, prediction s is of label s + 1, so that the first label of a sequence is never scored.
    """
    targets_BS = targets(logits_BTV, labels_BT)
    scored_BS = targets_BS != IGNORED
    # gather needs a valid index everywhere; the result is masked
    index_BS1 = targets_BS.masked_fill(~scored_BS, 0).unsqueeze(-1)
    nll_BS = -wide_log_softmax(logits_BTV[:, :-1]).gather(-1, index_BS1).squeeze(-1)
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
    return text_by_text(lambda own: sequence_means(*token_nll(token_logits(model, own), own["labels"])), batch)


def summed_losses(model: Any, batch: Batch) -> Tensor:
    r"""`[B]`: for every sequence the sum of the NLL over its scored tokens, $-\log p(y\mid x)$, in nats."""
    return text_by_text(lambda own: token_nll(token_logits(model, own), own["labels"])[0].sum(-1), batch)


@torch.no_grad()
def evaluate(model: Any, batches: list[Batch]) -> Tensor:
    """`[n]`: the losses of all sequences, in order. One forward pass; the model's mode is left as it is."""
    found = ranks()
    share = found.share(batches)
    with alone():
        # a process without texts takes a batch for the number format of its losses
        passes = [*share.batches, *share.idle] or batches[:1]
        found_c = torch.cat([sequence_losses(model, batch) for batch in passes])
    return found.gather(found_c[: share.own.stop - share.own.start], share)


def diverged(losses: Tensor) -> bool:
    """Whether any loss is not finite, or so large (2e9 nats in float32, 1e18 in float64) that neighbouring numbers of its format
    are 256 nats apart: such logits say nothing."""
    return not bool((losses.abs() <= 256 / torch.finfo(losses.dtype).eps).all())


def mean_loss(model: Any, batches: list[Batch]) -> float:
    """The loss of a set: the mean of its sequences' losses. Cost: one forward pass."""
    return evaluate(model, batches).double().mean().item()
