r"""Likelihood-ratio attacks on membership: LiRA (Carlini et al., arXiv 2112.03570) and U-LiRA (Hayes et al., arXiv 2403.01218).

Shadow models are trained as the attacked model was, some with a text and some without it. Of every text, a Gaussian is fitted to
the scores under either kind, and the text's score x under the attacked model is judged by

    log N(x; mean_in, var_in) - log N(x; mean_out, var_out)

Variances are unbiased (divided by k - 1). Everything is a function of losses: who trains the shadow models is another matter.
Shape suffixes: k shadow models, n texts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlearn_lib.errors import InputError, NumericsError


def logit_score(losses: Tensor) -> Tensor:
    """`[..]`, float64: log(p / (1 - p)) of the geometric mean p = exp(-loss) of a text's token probabilities.

    The logit of a probability is closer to a Gaussian than the loss, which has a bound at zero.

    Args:
        losses: `[..]`, mean NLLs in nats.

    Raises:
        InputError: A loss below zero.
        NumericsError: A loss that is zero, where the logit is infinite, or not finite.
    """
    losses = losses.detach().cpu().double()
    if (losses < 0).any():
        raise InputError(f"a loss is a mean of -log p and so at least zero; got {losses.min().item():.3g}")
    # 1 - p is formed directly, because the difference has no digits left where p is nearly 1
    scores: Tensor = -losses - (-torch.expm1(-losses)).log()
    if not torch.isfinite(scores).all():
        raise NumericsError(
            "a loss is zero or not finite, so that its logit is not finite; leave that text out, or measure the losses in float64"
        )
    return scores


def lira(in_scores: Tensor, out_scores: Tensor, observed: Tensor, *, fixed_variance: bool = False) -> Tensor:
    """`[n]`, float64: the log-likelihood ratio of LiRA; higher for more likely members, above 0 where "member" is the likelier.

    Args:
        in_scores: `[k, n]`, scores (see `logit_score`) of every text under shadow models that were trained on it. Which models these
            are may differ from text to text, but not how many.
        out_scores: `[k', n]`, those under shadow models that were not.
        observed: `[n]`, the scores under the attacked model.
        fixed_variance: Pool the variances of all texts, of either kind of model by itself: the mean of the texts' own. With few shadow
            models a text's own variance is known badly, and its ratio is made by that.

    Raises:
        InputError: Shapes that do not belong together, or fewer than two shadow models of either kind.
        NumericsError: A score that is not finite, or shadow models that all give a text the same score.
    """
    wide = [scores.detach().cpu().double() for scores in (in_scores, out_scores, observed)]
    _check(*wide)
    in_kn, out_kn, observed_n = wide
    return _log_density(observed_n, in_kn, fixed_variance) - _log_density(observed_n, out_kn, fixed_variance)


def u_lira(unlearned_scores: Tensor, retrained_scores: Tensor, observed: Tensor, *, fixed_variance: bool = False) -> Tensor:
    """`[n]`, float64: the log-likelihood ratio of U-LiRA; near 0 where unlearning is as good as retraining, high where a text that was
    trained on and unlearned is recognised.

    It is `lira` between other models: those that were trained on a text and then unlearned it, by the same method as the
    attacked model and together with as many others, against those that were never trained on it.

    Args:
        unlearned_scores: `[k, n]`, scores of every text under shadow models that unlearned it.
        retrained_scores: `[k', n]`, those under shadow models that were trained without it.
        observed: `[n]`, the scores under the attacked model.
        fixed_variance: As of `lira`.

    Raises:
        InputError, NumericsError: As of `lira`.
    """
    return lira(unlearned_scores, retrained_scores, observed, fixed_variance=fixed_variance)


def _log_density(observed_n: Tensor, shadow_kn: Tensor, fixed_variance: bool) -> Tensor:
    """`[n]`: the log-density of a Gaussian that is fitted to every column, but for a constant."""
    # the variance of equal numbers is asked for directly, because rounding may leave something of it
    same_n = (shadow_kn == shadow_kn[0]).all(0)
    variance_n = shadow_kn.var(0, correction=1).masked_fill(same_n, 0.0)
    if fixed_variance:
        variance_n = variance_n.mean().expand_as(variance_n)
    if not (variance_n > 0).all():
        raise NumericsError(
            f"all shadow models of one kind give text {int((variance_n <= 0).nonzero()[0])} the same score, so that no Gaussian can be "
            "fitted; train them from different seeds, or pool the variances with fixed_variance=True"
        )
    return -0.5 * (variance_n.log() + (observed_n - shadow_kn.mean(0)).square() / variance_n)


def _check(in_kn: Tensor, out_kn: Tensor, observed_n: Tensor) -> None:
    shapes = [tuple(scores.shape) for scores in (in_kn, out_kn, observed_n)]
    if (in_kn.ndim, out_kn.ndim, observed_n.ndim) != (2, 2, 1) or len({shape[-1] for shape in shapes}) != 1:
        raise InputError(
            f"the scores have shapes {shapes[0]}, {shapes[1]} and {shapes[2]}; give [k, n], [k', n] and [n] of n texts"
        )
    if min(len(in_kn), len(out_kn)) < 2:
        raise InputError(
            f"there are {len(in_kn)} shadow models with the texts and {len(out_kn)} without; a variance takes at least two of either kind"
        )
    if not all(torch.isfinite(scores).all() for scores in (in_kn, out_kn, observed_n)):
        raise NumericsError("a score is not finite, so that no Gaussian can be fitted; leave that text or shadow model out")
