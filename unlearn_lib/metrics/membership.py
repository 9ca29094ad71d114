r"""Whether a model was trained on a text, by what it says of the text: scores that are HIGHER for more likely members.

Of a text of T scored tokens, with the loss l = -(1/T) sum_t log p(y_t) and mean_t, std_t as in `TokenScores`:

    loss         -l                                                                  arXiv 1709.01604
    zlib         -l / number of bytes of the compressed text                         arXiv 2012.07805
    min-k        mean of the lowest share k of log p(y_t)                            arXiv 2310.16789
    min-k++      mean of the lowest share k of (log p(y_t) - mean_t) / std_t         arXiv 2404.02936
    reference    l under a reference model, minus l                                  arXiv 2012.07805
    gradient     -|gradient of l|, the length over all trainable parameters          arXiv 2506.12618

All but the last are functions of what `score_texts` (of texts in pieces: `of_texts`) gives. `attack` measures how well a score
tells members from other texts. All tensors are on the CPU in float64.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.curvature.empirical_fisher import EmpiricalFisher
from unlearn_lib.errors import InputError
from unlearn_lib.losses import Batch
from unlearn_lib.metrics.likelihood import TokenScores
from unlearn_lib.metrics.roc import Attack as Attack
from unlearn_lib.metrics.roc import attack as attack


def loss_score(scores: Sequence[TokenScores]) -> Tensor:
    """`[n]`: minus the mean NLL of every text, in nats; members have lower losses and so higher scores."""
    return -torch.tensor([text.loss for text in scores], dtype=torch.float64)


def zlib_score(scores: Sequence[TokenScores], texts: Sequence[str]) -> Tensor:
    """`[n]`: minus the loss for every byte that zlib compresses the text to; a text that is easy for zlib needs a lower loss to count.

    The ratio is the loss over the compressed size, which members have LOWER, and the score is minus that. Both are as in the
    source, where the loss is the logarithm of the perplexity: a mean over tokens, over a size that is a sum over the text.

    Args:
        scores: Of the texts.
        texts: What is scored of them, in the same order: of a prompt and a completion the completion.

    Raises:
        InputError: Other numbers of scores and of texts.
    """
    if len(scores) != len(texts):
        raise InputError(f"there are {len(scores)} scores for {len(texts)} texts; give one text for each")
    bytes_n = torch.tensor([len(zlib.compress(text.encode())) for text in texts], dtype=torch.float64)
    return loss_score(scores) / bytes_n


def min_k(scores: Sequence[TokenScores], k: float = 0.2) -> Tensor:
    """`[n]`: Min-K %, the mean log-probability of the least likely tokens of every text, in nats.

    Args:
        scores: Of the texts.
        k: The share of a text's scored tokens that counts, rounded down to whole tokens, but at least one.

    Raises:
        InputError: A share that is not above 0 and at most 1; no texts.
    """
    return _lowest([-text.nll_T for text in scores], k)


def min_k_plus_plus(scores: Sequence[TokenScores], k: float = 0.2) -> Tensor:
    """`[n]`: Min-K %++, in which every log-probability is compared with those of the whole vocabulary at its place, without a unit.

    Arguments and errors: as of `min_k`.
    """
    return _lowest([(-text.nll_T - text.mean_T) / text.std_T for text in scores], k)


def reference_score(scores: Sequence[TokenScores], reference: Sequence[TokenScores]) -> Tensor:
    """`[n]`: how much lower the loss is than that of a reference model, in nats a token.

    Args:
        scores: Of the texts under the model that is attacked.
        reference: Of the same texts, in the same order, under a model that was not trained on them.

    Raises:
        InputError: Other numbers of texts.
    """
    if len(scores) != len(reference):
        raise InputError(
            f"the model has scores of {len(scores)} texts and the reference model of {len(reference)}; score the same texts"
        )
    return loss_score(scores) - loss_score(reference)


def gradient_norms(model: Any, batches: Sequence[Batch]) -> Tensor:
    """`[n]`: minus the Euclidean length of the gradient of every sequence's loss, over all trainable parameters together.

    A model that was trained on a text is near a minimum of its loss. The length is that of one vector; the mean of the lengths of
    the parameters' own gradients, which OpenUnlearning takes, depends on how a model is divided into parameters.

    Args:
        model: A causal language model with eager attention; it is measured in evaluation mode and not changed.
        batches: Each text as one sequence: a text in pieces has no length that follows from those of its pieces.

    Raises:
        InputError: As of `EmpiricalRisk`, such as no batches, or no trainable parameter.
        NumericsError: A loss or a gradient is not finite.

    Cost: one gradient of every sequence; memory as for one batch.
    """
    if not batches:
        raise InputError("there are no texts to measure")
    return -torch.cat([EmpiricalFisher(model, [batch]).gradients().norms().cpu() for batch in batches])


def _lowest(values: Sequence[Tensor], k: float) -> Tensor:
    if not 0 < k <= 1:
        raise InputError(f"k is the share of tokens that counts, above 0 and at most 1; got {k}")
    if not values:
        raise InputError("there are no texts to measure")
    # rounded first, because in floating point 0.7 of 90 tokens is less than 63
    numbers = [max(1, int(round(k * len(values_T), 9))) for values_T in values]
    return torch.stack([values_T.topk(n, largest=False).values.mean() for n, values_T in zip(numbers, values, strict=True)])
