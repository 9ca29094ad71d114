r"""The measures of TOFU (Maini et al. 2024, arXiv 2401.06121), computed from losses and answers that are at hand.

A loss l(a) is the mean negative log-likelihood per token of an answer a given its question, in nats. Of a question with a paraphrase p
of the true answer and k wrong answers w_1 ... w_k:

    probability               exp(-l(a))
    normalised probability    exp(-l(a)) / (exp(-l(a)) + sum_j exp(-l(w_j)))
    truth ratio, geometric    R = exp(-mean_j l(w_j)) / exp(-l(p))
    truth ratio, arithmetic   R = mean_j exp(-l(w_j)) / exp(-l(p))

The truth ratio of a model that knows the answer is below 1. The paper defines the arithmetic mean, while the released code and the
published results use the geometric one. Model utilities differ by some 0.04 between the two, so a result should name its mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from unlearn_lib.errors import InputError, NumericsError, unknown
from unlearn_lib.metrics.indistinguishable import kolmogorov_smirnov
from unlearn_lib.metrics.rouge import rouge_l

Mean = Literal["geometric", "arithmetic"]
WrongLosses = Tensor | Sequence[Tensor] | Sequence[Sequence[float]]
SETS = ("retain", "real_authors", "world_facts")
MEASURES = ("probability", "rouge", "truth_ratio")
COMPONENTS = tuple(f"{part}_{measure}" for part in SETS for measure in MEASURES)
"""The nine numbers of model utility, such as `retain_probability`."""


def truth_ratio(wrong_losses: WrongLosses, paraphrase_loss: Tensor | Sequence[float], mean: Mean = "geometric") -> Tensor:
    """`[n]`, float64: the truth ratio of every question, at least 0.

    Args:
        wrong_losses: `[n, k]`, or for every question the losses of its own number of wrong answers.
        paraphrase_loss: `[n]`, the loss of the paraphrased true answer. The released code takes the true answer itself for questions
            that have no paraphrase.
        mean: Over the wrong answers, "geometric" as in the released code or "arithmetic" as in the paper.

    Raises:
        InputError: An unknown mean, no questions, a question without a wrong answer, or two numbers of questions.
        NumericsError: A loss is not finite.
    """
    if mean not in get_args(Mean):
        raise unknown("mean of the truth ratio", mean, get_args(Mean))
    truth_n, wrong = _paired(paraphrase_loss, wrong_losses)
    # in logarithms, because the probabilities of a model that diverged underflow before their ratio does
    if mean == "geometric":
        return (truth_n - torch.stack([wrong_k.mean() for wrong_k in wrong])).exp()
    return (truth_n + torch.stack([_log_sum(wrong_k) - math.log(len(wrong_k)) for wrong_k in wrong])).exp()


def truth_ratio_forget(ratios: Tensor) -> float:
    """The mean of min(R, 1/R), between 0 and 1: near 1 where the true and the wrong answers are equally likely.

    Raises:
        InputError: No ratios, or one below 0.
        NumericsError: A ratio is not a number.
    """
    ratios_n = _ratios(ratios)
    return torch.minimum(ratios_n, 1 / ratios_n).mean().item()


def truth_ratio_true(ratios: Tensor) -> float:
    """The mean of max(0, 1 - R), between 0 and 1: near 1 where the true answer is much the likelier one.

    Raises:
        InputError: No ratios, or one below 0.
        NumericsError: A ratio is not a number.
    """
    return (1 - _ratios(ratios)).clamp(min=0).mean().item()


def probability(losses: Tensor | Sequence[float]) -> Tensor:
    """`[n]`, float64: exp(-loss), the geometric mean of the probabilities of an answer's tokens.

    Raises:
        InputError: No losses.
        NumericsError: A loss is not finite.
    """
    return (-_losses(losses, "the true answers")).exp()


def normalised_probability(loss: Tensor | Sequence[float], wrong_losses: WrongLosses) -> Tensor:
    """`[n]`, float64: the share of the true answer in the probabilities of the true and of all wrong answers.

    TOFU takes it as the probability on the real authors and the world facts.

    Raises:
        InputError, NumericsError: As of `truth_ratio`.
    """
    truth_n, wrong = _paired(loss, wrong_losses)
    return (-truth_n - torch.stack([_log_sum(wrong_k) for wrong_k in wrong])).sigmoid()


def rouge_l_recall(answer: str, truth: str) -> float:
    """The share of the truth's words that a greedy answer has in the same order, between 0 and 1; stemmed, as in TOFU's code.

    Raises:
        InputError: The truth has no word that ROUGE-L knows.
    """
    return rouge_l(answer, truth, stem=True).recall


@dataclass(frozen=True)
class ForgetQuality:
    """Whether a model answers the questions to be forgotten as a model does that never saw them.

    Attributes:
        p: The p-value of the two-sample Kolmogorov-Smirnov test between the truth ratios of both models.
        D: The test's distance, the largest gap between the two distribution functions, between 0 and 1.
        n, m: How many questions of the model and of the reference were compared.
        floor: The smallest p that this many questions can give, 2 / C(n + m, n), which is reached at D = 1. The same D gives very
            different p for different numbers of questions, so that p alone compares no two splits.
    """

    p: float
    D: float
    n: int
    m: int
    floor: float


def forget_quality(ratios: Tensor, reference_ratios: Tensor) -> ForgetQuality:
    """TOFU's forget quality.

    Args:
        ratios: `[n]`, the truth ratios of the model on the questions to be forgotten.
        reference_ratios: `[m]`, those of a model that was trained on the retained texts alone, on the same questions.

    Raises:
        InputError: No ratios, or one below 0.
        NumericsError: A ratio is not a number.

    Cost: a sort, and n m additions for the exact p. Of more than 10,000 questions scipy gives the asymptotic p, which may lie below
    `floor`.
    """
    found = kolmogorov_smirnov(_ratios(ratios), _ratios(reference_ratios))
    n, m = found.n_forget, found.n_holdout
    return ForgetQuality(found.p, found.distance, n, m, 2 / math.comb(n + m, n))


def model_utility(components: Mapping[str, float]) -> float:
    """The harmonic mean of TOFU's nine numbers, between 0 and 1; 0 where one of them is 0.

    Args:
        components: Every name of `COMPONENTS` with a number between 0 and 1: of the retained questions, the real authors and the
            world facts the mean probability (normalised but for the retained questions), the mean ROUGE-L recall, and
            `truth_ratio_true`.

    Raises:
        InputError: A name is missing or unknown, or a number is not between 0 and 1 (also NaN).
    """
    for name in components:
        if name not in COMPONENTS:
            raise unknown("component of the model utility", name, COMPONENTS)
    for name in COMPONENTS:
        if name not in components:
            raise InputError(f"model utility is the harmonic mean of nine numbers, and {name!r} is missing; measure it, too")
        if not 0 <= components[name] <= 1:
            raise InputError(
                f"the component {name!r} of the model utility is a mean of shares between 0 and 1, but it is {components[name]}; "
                "look at how it was measured (a percentage is to be divided by 100)"
            )
    values = [float(components[name]) for name in COMPONENTS]
    return len(values) / math.fsum(1 / value for value in values) if min(values) > 0 else 0.0


def _paired(losses: Tensor | Sequence[float], wrong_losses: WrongLosses) -> tuple[Tensor, list[Tensor]]:
    """`[n]` and n times `[k]` in float64, checked."""
    truth_n = _losses(losses, "the true answers")
    if len(wrong_losses) != len(truth_n):
        raise InputError(
            f"there are true answers to {len(truth_n)} questions and wrong answers to {len(wrong_losses)}; give both for the same ones"
        )
    return truth_n, [_losses(wrong, f"the wrong answers to question {row}") for row, wrong in enumerate(wrong_losses)]


def _losses(losses: Tensor | Sequence[float], what: str) -> Tensor:
    found = torch.as_tensor(losses, dtype=torch.float64).detach().cpu()
    if found.ndim != 1 or not len(found):
        raise InputError(f"the losses of {what} have the shape {tuple(found.shape)}; this takes one row of at least one loss")
    if not bool(found.isfinite().all()):
        raise NumericsError(
            f"of the losses of {what} number {int((~found.isfinite()).nonzero()[0, 0])} is not finite, so the model has diverged; "
            "unlearn with fewer or smaller steps"
        )
    return found


def _ratios(ratios: Tensor) -> Tensor:
    found = torch.as_tensor(ratios, dtype=torch.float64).detach().cpu()
    if found.ndim != 1 or not len(found):
        raise InputError(f"the truth ratios have the shape {tuple(found.shape)}; this takes one row of at least one ratio")
    if bool(found.isnan().any()):
        raise NumericsError(
            f"truth ratio {int(found.isnan().nonzero()[0, 0])} is not a number; compute the ratios from finite losses by truth_ratio"
        )
    if bool((found < 0).any()):
        raise InputError("a truth ratio is a ratio of probabilities and never below 0; give ratios, not their logarithms")
    return found


def _log_sum(wrong_k: Tensor) -> Tensor:
    """The logarithm of the sum of the wrong answers' probabilities."""
    return torch.logsumexp(-wrong_k, dim=0)
