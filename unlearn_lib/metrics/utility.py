r"""What a model is still worth: the perplexity of a set of texts and the accuracy on questions, each with an interval.

Of texts i of T_i scored tokens with the summed negative log-likelihoods L_i, in nats:

    perplexity    exp( sum_i L_i / sum_i T_i )

Every token weighs the same, as in language modelling, so that a long text counts for more than a short one. The loss of a set
elsewhere in this library (`text_losses`, `mean_loss`) is (1/n) sum_i L_i / T_i, in which every text weighs the same; its exponential
is another number wherever texts of different lengths have different losses. Both depend on the tokenizer: perplexities of models with
different tokenizers cannot be compared.

Shape suffixes: n texts or questions, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.data.batches import Grouping, LongTexts, encode, sequence_length
from unlearn_lib.data.given import rows_of
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.metrics.likelihood import TokenScores, of_texts, score_texts
from unlearn_lib.metrics.roc import NUMBERS, Interval


@dataclass(frozen=True)
class Perplexity:
    """The perplexity of a set of texts.

    Attributes:
        value: The exponential of `nll`, at least 1; infinite where it is too large for a number.
        interval: Its bootstrap interval over texts; None for a single text.
        nll: The mean negative log-likelihood of all scored tokens, in nats.
        tokens: How many there are.
        texts: The number of texts.
    """

    value: float
    interval: Interval | None
    nll: float
    tokens: int
    texts: int


@dataclass(frozen=True)
class Accuracy:
    """The share of right answers of `questions` questions with the bounds of its interval, all three in percent."""

    value: float
    low: float
    high: float
    questions: int


def perplexity(
    model: Any,
    tokenizer: Any,
    rows: Any,
    *,
    batch_size: int | Grouping = 32,
    max_length: int | None = None,
    long_texts: LongTexts = "split",
    assistant_only: bool = True,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Perplexity:
    """The perplexity of a set of texts under a model.

    The first token of a text, which nothing predicts, is not scored, and the end-of-text token is. Other programs put a token before
    the text or leave its end out, and windows of another length give other numbers for long texts.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        rows: A data set as `rows_of` takes it; of prompts and completions the completions are scored.
        batch_size: Sequences in a forward pass.
        max_length: Of a sequence, in tokens; default: the model's context.
        long_texts, assistant_only: As of `encode`.
        confidence, resamples, seed: As of `perplexity_of`.

    Raises:
        InputError: No texts; `max_length` or a setting of the interval out of range.
        NumericsError: A loss is not finite.

    Cost: one forward pass over the texts.
    """
    given = rows_of(rows)
    if not given:
        raise InputError("the data set is empty, so it has no perplexity; give at least one text")
    length = sequence_length(model, tokenizer, max_length)
    examples = encode(given, tokenizer, length, long_texts=long_texts, assistant_only=assistant_only).examples
    scores = of_texts(score_texts(model, examples, batch_size), examples)
    return perplexity_of(scores, confidence=confidence, resamples=resamples, seed=seed)


def perplexity_of(
    scores: Sequence[TokenScores], *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> Perplexity:
    """The perplexity from scores that are at hand.

    The interval is made of percentiles of a bootstrap that resamples whole texts, because the tokens of one text depend on each other.
    It says what other texts of the same kind would change, and nothing of what another training would.

    Args:
        scores: Of every text, as `score_texts` gives them, or `of_texts` where long texts were read in pieces.
        confidence: The share of resamples inside the interval.
        resamples: How many.
        seed: Of the resampling; the global generators are not touched.

    Raises:
        InputError: No texts, or a setting out of range.
        NumericsError: A loss is not finite.

    Cost: `resamples` times n additions, and at most 16 MiB.
    """
    if not scores:
        raise InputError("there are no texts, so there is no perplexity; give at least one text")
    _check_confidence(confidence)
    if resamples < 1:
        raise InputError(f"an interval takes at least one resample; got {resamples}")
    nll_n = torch.stack([text.nll_T.double().sum() for text in scores])
    tokens_n = torch.tensor([len(text.nll_T) for text in scores], dtype=torch.float64)
    if not bool(nll_n.isfinite().all()):
        wrong = int((~nll_n.isfinite()).nonzero()[0])
        raise NumericsError(
            f"the loss of text {wrong} is {float(nll_n[wrong])}, so the set has no perplexity; the model has diverged, or it gives a "
            "token no probability at all: leave that text out"
        )
    mean = float(nll_n.sum() / tokens_n.sum())
    interval = None
    if len(scores) > 1:
        tail = (1 - confidence) / 2
        means_R = _resampled_means(nll_n, tokens_n, resamples, seed)
        low, high = means_R.quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
        interval = (_exp(low), _exp(high))
    return Perplexity(_exp(mean), interval, mean, int(tokens_n.sum()), len(scores))


def accuracy_interval(right: Tensor | Sequence[bool], confidence: float = 0.95) -> Accuracy:
    """The accuracy on questions with the exact interval of Clopper and Pearson (1934).

    The interval holds the model's accuracy on all questions of the kind at least as often as `confidence` says, also for few questions
    and for none or all right. Two models that answer the same questions are compared question by question; that their intervals
    overlap says little.

    Args:
        right: `[n]`, whether each answer is right, as `Questions.right` gives it.
        confidence: Above 0 and below 1.

    Raises:
        InputError: No answers, answers that are neither right nor wrong (0 or 1), or a confidence out of range.
    """
    right_n = torch.as_tensor(right).detach().cpu()
    if right_n.ndim != 1 or not len(right_n):
        raise InputError(
            f"an accuracy is the share of right answers of at least one question; the answers have shape {tuple(right_n.shape)}"
        )
    if not bool(((right_n == 0) | (right_n == 1)).all()):
        raise InputError(
            "an answer is right (1, True) or wrong (0, False), and nothing between; give one of them for each question"
        )
    hits, questions = int(right_n.sum()), len(right_n)
    low, high = share_interval(hits, questions, confidence)
    return Accuracy(100.0 * hits / questions, 100.0 * low, 100.0 * high, questions)


def share_interval(hits: int, of: int, confidence: float = 0.95) -> Interval:
    """The exact interval of Clopper and Pearson (1934) of a share of `hits` out of `of` independent trials, within 0 and 1.

    Raises:
        InputError: A confidence that is not above 0 and below 1, or not 0 <= hits <= of with at least one trial.
    """
    from scipy.stats import binomtest

    _check_confidence(confidence)
    if not 0 <= hits <= of or not of:
        raise InputError(f"a share is of at least one trial and at most all of them; got {hits} of {of}")
    low, high = binomtest(hits, of).proportion_ci(confidence)
    return float(low), float(high)


def _resampled_means(nll_n: Tensor, tokens_n: Tensor, resamples: int, seed: int) -> Tensor:
    """`[R]`: the mean NLL of a token in texts that were drawn from the set with replacement."""
    generator, n = torch.Generator().manual_seed(seed), len(nll_n)
    most = max(1, NUMBERS // n)
    sizes = [min(most, resamples - start) for start in range(0, resamples, most)]
    drawn = (torch.randint(n, (R, n), generator=generator) for R in sizes)
    return torch.cat([nll_n[chosen_Rn].sum(1) / tokens_n[chosen_Rn].sum(1) for chosen_Rn in drawn])


def _exp(nats: float) -> float:
    try:
        return math.exp(nats)
    except OverflowError:
        return math.inf


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError(
            f"confidence is the share of intervals that hold the true value, above 0 and below 1; got {confidence}"
        )
