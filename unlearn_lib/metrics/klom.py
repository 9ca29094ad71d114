r"""KLOM, the KL divergence of margins: whether unlearning gives the same distribution of models as retraining, text by text.

Several models are unlearned, from originals of different seeds, and several retrained. For every text the margins of both kinds are
two samples, and KLOM is KL(unlearned, retrained) between the distributions they are drawn from (Georgiev et al., arXiv 2410.23232;
benchmark EasyDUB, arXiv 2602.16400). The margin of a classifier is the logit of the right class's probability. A text's probability
shrinks with its length, so here p is the geometric mean of its tokens' probabilities, of the mean loss $\ell$:

$$m = \log\frac{p}{1 - p},\qquad p = e^{-\ell}.$$

**Floor.** KLOM of two disjoint sets of retrained models is not 0, as distributions are estimated from few models; `gaussian_floor` says
what to expect. Read KLOM beside the measured floor, and its median rather than its mean where there are few models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from unlearn_lib.data.batches import Example, make_batches
from unlearn_lib.data.examples import text_means
from unlearn_lib.errors import InputError, NumericsError, unknown
from unlearn_lib.losses import evaluate

Estimate = Literal["gaussian", "histogram"]

CLIP = 100.0
"""Margins beyond are clipped, as in the source: a text that is known by heart has an infinite one."""
BINS = 20
LEAST_SHARE = 1e-5
"""Of the histograms, as in the source: how many bins, and the least share of retrained models in a bin with unlearned ones."""
LEAST_VARIANCE = 1e-6
"""Smaller variances are raised to it, so that models that agree to the last digit have a finite divergence."""


def margins(losses: Tensor) -> Tensor:
    """The logit of every text's geometric mean probability, log p / (1 - p) with p = exp(-loss), in float64 and of the same shape.
    Infinite for a loss of 0.

    Args:
        losses: Mean losses of texts, in nats.

    Raises:
        NumericsError: A loss is negative or not finite.
    """
    exact = losses.double()
    if not bool(((exact >= 0) & torch.isfinite(exact)).all()):
        raise NumericsError("a loss is negative or not finite, so it has no margin; look for a model that has diverged")
    return -exact - torch.log(-torch.expm1(-exact))


def model_margins(models: Iterable[Any], examples: Sequence[Example], batch_size: int = 32) -> Tensor:
    """`[N, n]`: the margins of n texts under N models, float64.

    Args:
        models: Causal language models in evaluation mode. They are taken one after the other, so that a generator that loads them holds
            one in memory at a time.
        examples: The encoded texts; the pieces of a long text are one text.
        batch_size: Sequences in a forward pass.

    Raises:
        InputError: No texts or no models.
        NumericsError: A loss is not finite.

    Cost: a forward pass of every model.
    """
    if not examples:
        raise InputError("there are no texts to take margins of; give at least one text")
    found = [
        margins(text_means(evaluate(model, make_batches(examples, batch_size, model.device)), examples)).cpu()
        for model in models
    ]
    if not found:
        raise InputError("there are no models to take margins of; give at least two")
    return torch.stack(found)


def klom(unlearned_Nn: Tensor, retrained_Mn: Tensor, estimate: Estimate = "gaussian") -> Tensor:
    """`[n]`: for every text KL(unlearned, retrained) between the distributions of its margins, in nats, float64.

    Args:
        unlearned_Nn: Margins of n texts under N unlearned models.
        retrained_Mn: Of the same texts under M retrained ones.
        estimate: "gaussian" fits a normal distribution to each sample (unbiased variances), for a handful of models. "histogram" counts
            them in 20 bins of equal width on the range of both, as the source does with hundreds of models; with few, most bins are
            empty, and the value mostly tells how many are. (The source's code leaves the largest margin out of all bins; here it
            is in the last one.)

    Raises:
        InputError: Fewer than two models of a kind, different numbers of texts, an unknown estimate.
        NumericsError: A margin is not a number.
    """
    if estimate not in get_args(Estimate):
        raise unknown("estimate of klom", estimate, get_args(Estimate))
    if unlearned_Nn.ndim != 2 or retrained_Mn.ndim != 2 or unlearned_Nn.shape[1] != retrained_Mn.shape[1]:
        raise InputError(
            f"the margins have shapes {tuple(unlearned_Nn.shape)} and {tuple(retrained_Mn.shape)}, so they cannot be compared text by "
            "text; give [models, texts] of the same texts"
        )
    if min(len(unlearned_Nn), len(retrained_Mn)) < 2:
        raise InputError(
            f"a distribution needs at least two models, and there are {len(unlearned_Nn)} unlearned and {len(retrained_Mn)} retrained "
            "ones; unlearn and retrain with more seeds"
        )
    p_Nn, q_Mn = (values.double().cpu().clamp(-CLIP, CLIP) for values in (unlearned_Nn, retrained_Mn))
    if bool(p_Nn.isnan().any() or q_Mn.isnan().any()):
        raise NumericsError("a margin is not a number; look for a model that has diverged")
    if estimate == "histogram":
        return torch.tensor([_histogram_kl(p_N, q_M) for p_N, q_M in zip(p_Nn.T, q_Mn.T, strict=True)], dtype=torch.float64)
    p_variance_n, q_variance_n = (values.var(0).clamp_min(LEAST_VARIANCE) for values in (p_Nn, q_Mn))
    return gaussian_kl(p_Nn.mean(0), p_variance_n, q_Mn.mean(0), q_variance_n)


def gaussian_kl(p_mean: Tensor, p_variance: Tensor, q_mean: Tensor, q_variance: Tensor) -> Tensor:
    r"""KL between normal distributions, in nats, element by element:
    $\tfrac12\left(\log\frac{\sigma_q^2}{\sigma_p^2} + \frac{\sigma_p^2 + (\mu_p - \mu_q)^2}{\sigma_q^2} - 1\right)$."""
    return 0.5 * (torch.log(q_variance / p_variance) + (p_variance + (p_mean - q_mean).square()) / q_variance - 1)


def gaussian_floor(unlearned: int, retrained: int) -> float:
    """The expectation of "gaussian" KLOM where both kinds of models have the same normal distribution of margins, in nats.

    It does not depend on that distribution: 0.90 for 5 models of each kind, 0.27 for 10, 0.11 for 20. Up to three retrained models it
    is infinite, since their variance can come out arbitrarily small, and only a median says something.

    Args:
        unlearned, retrained: Numbers of models, at least 2.

    Raises:
        InputError: Fewer than two models of a kind.
    """
    from scipy.special import digamma

    if min(unlearned, retrained) < 2:
        raise InputError(f"a distribution needs at least two models; got {unlearned} and {retrained}")
    if retrained <= 3:
        return math.inf

    def log_variance(models: int) -> float:
        half = (models - 1) / 2
        return float(digamma(half)) - math.log(half)

    of_ratio = (1 + 1 / unlearned + 1 / retrained) * (retrained - 1) / (retrained - 3)
    return 0.5 * (log_variance(retrained) - log_variance(unlearned) + of_ratio - 1)


def _histogram_kl(p_N: Tensor, q_M: Tensor) -> float:
    import numpy as np

    low, high = (float(bound) for bound in torch.cat([p_N, q_M]).aminmax())
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    p_K, q_K = (np.histogram(values.numpy(), edges)[0] / len(values) for values in (p_N, q_M))
    taken = p_K > 0
    return float((p_K[taken] * np.log(p_K[taken] / np.maximum(q_K[taken], LEAST_SHARE))).sum())
