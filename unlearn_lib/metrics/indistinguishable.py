r"""Whether forgotten texts look like texts never seen: by their losses alone.

The loss attack says "was trained on" of texts with a low loss; its AUC is the chance that a random forget text has a lower
loss than a random held-out text (0.5: cannot tell; 1: always). The Kolmogorov-Smirnov distance is the largest gap between the
two distribution functions; its p-value depends on the numbers of texts and is worth nothing without them.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from torch import Tensor

from unlearn_lib.errors import InputError
from unlearn_lib.metrics.roc import auc


@dataclass(frozen=True)
class KolmogorovSmirnov:
    """The two-sample test between forget and held-out losses: `distance`, its `p`, and both numbers of texts."""

    distance: float
    p: float
    n_forget: int
    n_holdout: int


def kolmogorov_smirnov(forget_n: Tensor, holdout_m: Tensor) -> KolmogorovSmirnov:
    """The test: p is the chance of a distance this large or larger between two samples of one distribution, exact for up to 10,000
    texts a set.

    Raises:
        InputError: One of the sets is empty.
    """
    from scipy.stats import ks_2samp

    _check(forget_n, holdout_m)
    n, m = len(forget_n), len(holdout_m)
    samples = forget_n.double().cpu().numpy(), holdout_m.double().cpu().numpy()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "ks_2samp: Exact calculation unsuccessful", RuntimeWarning)
            found = ks_2samp(*samples)
    except RuntimeWarning:
        # Of two sets of one size whose distance is as small as chance makes it nearly always (for a distance of 1 / n: always), scipy adds
        # up an exact p of 1 + 2e-16, takes it for a failure, and would give the asymptotic p, which is up to 4e-5 too small there.
        found = ks_2samp(*samples, method="asymp")
        return KolmogorovSmirnov(float(found.statistic), 1.0 if n == m else float(found.pvalue), n, m)
    return KolmogorovSmirnov(float(found.statistic), float(found.pvalue), n, m)


def loss_attack_auc(forget_n: Tensor, holdout_m: Tensor) -> float:
    """The AUC of the loss attack: the share of pairs in which the forget text has the lower loss, ties counting half.

    Cost: a sort of all losses, and memory for n + m numbers.

    Raises:
        InputError: One of the sets is empty.
    """
    _check(forget_n, holdout_m)
    return float(auc(holdout_m, forget_n))


def over_erased(forget_n: Tensor, holdout_m: Tensor) -> float:
    """The one-sided p-value of Mann and Whitney's test that forget losses are larger than held-out ones: the chance of an AUC this
    low or lower if they were not, exact where the sets are small and free of ties."""
    from scipy.stats import mannwhitneyu

    _check(forget_n, holdout_m)
    found = mannwhitneyu(forget_n.double().cpu().numpy(), holdout_m.double().cpu().numpy(), alternative="greater")
    return float(found.pvalue)


def _check(forget_n: Tensor, holdout_m: Tensor) -> None:
    if not len(forget_n) or not len(holdout_m):
        raise InputError("comparing losses takes at least one forget and one held-out text")
