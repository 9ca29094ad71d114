r"""What a model says of every scored token of a text, from one forward pass.

For a token y_t after y_<t, with p the model's distribution of it over the vocabulary:

    nll      -log p(y_t)
    right    whether y_t is the most likely token
    mean     E_{v ~ p} log p(v), the negative entropy of p
    std      sqrt(max(Var_{v ~ p} log p(v), 1e-6))

Shape suffixes: T scored tokens of a text, N predictions that are measured together, B sequences, S predictions of a sequence,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.data.batches import Grouping, make_batches
from unlearn_lib.data.examples import Example, by_text
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED, Batch, targets, token_logits, wide_log_softmax
from unlearn_lib.models.master_weights import master_weights

Measure = Callable[[Tensor, Tensor], Tensor]
NUMBERS = 1 << 22
"""The most logits that are measured at once: 16 MiB of them in float32."""
LEAST_VARIANCE = 1e-6
"""The floor of OpenUnlearning (arXiv 2506.12618), without which a model that is certain of its next token would divide by zero."""


@dataclass(frozen=True, eq=False)
class TokenScores:
    """The scored predictions of one text, in order; all `[T]`, on the CPU, in float64 but for `right_T`.

    Attributes:
        nll_T: The negative log-likelihood of every token, in nats.
        right_T: Whether the token is the most likely one; of several that are equally likely, the one with the lowest number.
        mean_T: The mean of the log-probabilities of all tokens of the vocabulary, weighted by their probabilities, in nats.
        std_T: Their standard deviation under the same weights, in nats, at least 1e-3.
    """

    nll_T: Tensor
    right_T: Tensor
    mean_T: Tensor
    std_T: Tensor

    @property
    def loss(self) -> float:
        """The text's mean NLL in nats, which is what `evaluate` gives for it."""
        return self.nll_T.mean().item()


@torch.no_grad()
def score_texts(model: Any, examples: Sequence[Example], batch_size: int | Grouping = 32) -> list[TokenScores]:
    """The scores of every sequence, in order; `of_texts` joins those of texts that are read in pieces.

    Args:
        model: A causal language model in evaluation mode. Weights below float32 are widened while it is measured.
        examples: The sequences.
        batch_size: Sequences in a forward pass.

    Raises:
        InputError: No sequences, or one in which nothing is scored.

    Cost: one forward pass; memory for the logits of one batch and a few times 16 MiB.
    """
    empty = next((i for i, example in enumerate(examples) if not example.scored), None)
    if empty is not None:
        raise InputError(f"sequence {empty} has no scored token, so that the model says nothing of it; remove it")
    with master_weights(model):
        columns = [found_T4.double().unbind(1) for found_T4 in over_predictions(model, examples, _statistics, batch_size)]
    return [TokenScores(nll_T, right_T.bool(), mean_T, std_T) for nll_T, right_T, mean_T, std_T in columns]


def of_texts(scores: Sequence[TokenScores], examples: Sequence[Example]) -> list[TokenScores]:
    """The scores of every text, its pieces joined in their order; texts in the order of `by_text`.

    Args:
        scores: What `score_texts` gives.
        examples: The sequences that it was given.

    Raises:
        InputError: Other numbers of scores and of sequences.
    """
    if len(scores) != len(examples):
        raise InputError(f"there are {len(scores)} scores for {len(examples)} sequences; give the sequences that were scored")
    return [_joined([scores[i] for i in positions]) for positions in by_text(examples)]


@torch.no_grad()
def over_predictions(
    model: Any, examples: Sequence[Example], measure: Measure, batch_size: int | Grouping = 32
) -> list[Tensor]:
    """For every sequence `[T, ..]`, on the CPU: a measure of each of its scored predictions.

    Args:
        model: A causal language model, in the mode that it is in.
        examples: The sequences.
        measure: From `(logits_NV, targets_N)` to `[N, ..]`, each prediction by itself; called with few predictions at a time, so
            that its temporaries stay small.
        batch_size: Sequences in a forward pass.

    Raises:
        InputError: No sequences.

    Cost: one forward pass, and memory for the logits of one batch.
    """
    if not examples:
        raise InputError("there are no texts to measure")
    return [found for batch in make_batches(examples, batch_size, model.device) for found in _over_batch(model, batch, measure)]


def right_predictions(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """`[N]`, bool: which targets are the most likely token."""
    return logits_NV.argmax(-1) == targets_N


def _over_batch(model: Any, batch: Batch, measure: Measure) -> Sequence[Tensor]:
    # a function of its own, so that these logits are gone before those of the next batch are there
    logits_BTV = token_logits(model, batch)
    targets_BS = targets(logits_BTV, batch["labels"])
    scored_BS = targets_BS != IGNORED
    most = max(1, NUMBERS // logits_BTV.shape[-1])
    groups = scored_BS.nonzero().split(most)
    parts = [measure(logits_BTV[at_N2.unbind(1)], targets_BS[at_N2.unbind(1)]) for at_N2 in groups]
    found: Sequence[Tensor] = torch.cat(parts).cpu().split(scored_BS.sum(1).tolist())
    return found


def _statistics(logits_NV: Tensor, targets_N: Tensor) -> Tensor:
    """`[N, 4]`: nll, right (0 or 1), mean and std."""
    log_probs_NV = wide_log_softmax(logits_NV)
    nll_N = -log_probs_NV.gather(1, targets_N.unsqueeze(1)).squeeze(1)
    probs_NV = log_probs_NV.exp()
    log_probs_NV = log_probs_NV.masked_fill(probs_NV == 0, 0.0)  # p log p is 0 there, also where log p is minus infinity
    mean_N = (probs_NV * log_probs_NV).sum(1)
    # the mean of squares minus the square of the mean would lose the digits of a small variance
    variance_N = (probs_NV * (log_probs_NV - mean_N.unsqueeze(1)).square()).sum(1)
    std_N = variance_N.clamp_min(LEAST_VARIANCE).sqrt()
    right_N = right_predictions(logits_NV, targets_N).to(mean_N.dtype)
    return torch.stack([nll_N, right_N, mean_N, std_N], 1)


def _joined(parts: Sequence[TokenScores]) -> TokenScores:
    if len(parts) == 1:
        return parts[0]
    return TokenScores(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(TokenScores)))
