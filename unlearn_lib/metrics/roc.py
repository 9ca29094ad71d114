r"""How well a score tells two sets apart: points and area of the receiver operating characteristic, with their uncertainty.

A threshold says "member" of every text whose score is above it. Its true positive rate (TPR) is the share of the members that it
finds, its false positive rate (FPR) the share of the others that it takes for members. The area under the curve (AUC) is an
average over all thresholds; whether any text can be recognised with confidence is what the TPR at a low FPR says (Carlini et al.,
arXiv 2112.03570).

Shape suffixes: n members, m others, F rates, R resamples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unlearn_lib.errors import InputError, NumericsError

Interval = tuple[float, float]
NUMBERS = 1 << 20
"""Scores that are resampled at once, 8 MiB of them."""


@dataclass(frozen=True)
class Attack:
    """What a score achieves as an attack on membership.

    Attributes:
        auc: The chance that a random member has a higher score than a random other text, ties counting half; 0.5: the score cannot
            tell them apart.
        auc_interval: Its bootstrap interval.
        tpr: For every FPR asked for the TPR there, or None where the FPR is not resolvable.
        tpr_interval: Its bootstrap interval, or None.
        n, m: How many members and other texts it rests on.
        resolvable: The FPRs that m other texts can tell from zero: those of at least 1 / m.
    """

    auc: float
    auc_interval: Interval
    tpr: Mapping[float, float | None]
    tpr_interval: Mapping[float, Interval | None]
    n: int
    m: int
    resolvable: tuple[float, ...]


def attack(
    members: Tensor,
    others: Tensor,
    *,
    fprs: Sequence[float] = (0.01, 0.001),
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Attack:
    """How well a score tells members from other texts.

    The intervals are percentiles of a bootstrap that resamples members and others separately. They do not contain what the
    training of another model would change. Where the two sets do not overlap, every resample gives the same value, and the
    interval has no width although the numbers of texts are finite.

    Args:
        members: `[n]`, scores of texts that the model was trained on; a higher score says "member".
        others: `[m]`, scores of texts of the same kind that it was not trained on.
        fprs: The false positive rates to give a TPR for, each above 0 and below 1.
        confidence: The share of resamples inside the intervals.
        resamples: How many.
        seed: Of the resampling; the global generators are not touched.

    Raises:
        InputError: An empty set, scores that are not one-dimensional, or a setting out of range.
        NumericsError: A score that is not finite.

    Cost: `resamples` sorts of all scores.
    """
    if not all(0 < fpr < 1 for fpr in fprs):
        raise InputError(f"a false positive rate is above 0 and below 1; got {tuple(fprs)}")
    if not 0 < confidence < 1 or resamples < 1:
        raise InputError(
            f"confidence is above 0 and below 1, and there is at least one resample; got {confidence} and {resamples}"
        )
    members_n, others_m = _scores(members, "members"), _scores(others, "others")
    n, m = len(members_n), len(others_m)
    resolvable = tuple(fpr for fpr in fprs if fpr >= 1 / m)
    point = _measures(members_n, others_m, resolvable).tolist()
    drawn = [_measures(*pair, resolvable) for pair in _resamples(members_n, others_m, resamples, seed)]
    tail = (1 - confidence) / 2
    bounds = torch.cat(drawn, 1).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64), 1)
    intervals = [(low, high) for low, high in bounds.T.tolist()]
    places = {fpr: place for place, fpr in enumerate(resolvable, 1)}
    return Attack(
        auc=point[0],
        auc_interval=intervals[0],
        tpr={fpr: point[places[fpr]] if fpr in places else None for fpr in fprs},
        tpr_interval={fpr: intervals[places[fpr]] if fpr in places else None for fpr in fprs},
        n=n,
        m=m,
        resolvable=resolvable,
    )


def auc(higher: Tensor, lower: Tensor) -> Tensor:
    """`[..]`, float64: the share of pairs in which the value of the first set is the larger one, ties counting half.

    It is Mann and Whitney's U over n m.

    Args:
        higher: `[.., n]`, values of the set that is expected to have the larger ones.
        lower: `[.., m]`, those of the other set.

    Cost: a sort of all values, and memory for n + m numbers.
    """
    from scipy.stats import rankdata

    n, m = higher.shape[-1], lower.shape[-1]
    values = torch.cat([higher.double().cpu(), lower.double().cpu()], -1)
    ranks = torch.as_tensor(rankdata(values.numpy(), axis=-1))  # equal values share their mean rank
    # of the ranks of the first set, those that it has within itself say nothing
    found: Tensor = (ranks[..., :n].sum(-1) - n * (n + 1) / 2) / (n * m)
    return found


def true_positive_rate(higher: Tensor, lower: Tensor, fpr: float) -> Tensor:
    """`[..]`, float64: the largest TPR of a threshold whose FPR is at most `fpr`.

    Args:
        higher, lower: `[.., n]` and `[.., m]`, scores of members and of others, as of `auc`.
        fpr: At least 0 and below 1.

    Cost: a partial sort of the second set.
    """
    m = lower.shape[-1]
    allowed = round(fpr * m)  # or one less: the quotient is compared, which is correctly rounded where the product is not
    if allowed / m > fpr:
        allowed -= 1
    # of the thresholds that no more than that many others exceed, the lowest is the score of the next of them
    threshold = lower.topk(allowed + 1, dim=-1).values[..., -1:]
    return (higher > threshold).double().mean(-1)


def _measures(members: Tensor, others: Tensor, fprs: Sequence[float]) -> Tensor:
    """`[1 + F, ..]`: the AUC, and the TPR at every rate."""
    return torch.stack([auc(members, others), *(true_positive_rate(members, others, fpr) for fpr in fprs)])


def _resamples(members_n: Tensor, others_m: Tensor, resamples: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """`([R, n], [R, m])`, both sets drawn from themselves, a few resamples at a time."""
    generator = torch.Generator().manual_seed(seed)
    most = max(1, NUMBERS // (len(members_n) + len(others_m)))
    for start in range(0, resamples, most):
        R = min(most, resamples - start)
        drawn = [torch.randint(len(scores), (R, len(scores)), generator=generator) for scores in (members_n, others_m)]
        yield members_n[drawn[0]], others_m[drawn[1]]


def _scores(scores: Tensor, name: str) -> Tensor:
    if scores.ndim != 1 or not len(scores):
        raise InputError(
            f"an attack compares one score for each text, at least one of either kind; the {name} have shape {tuple(scores.shape)}"
        )
    if not torch.isfinite(scores).all():
        wrong = int((~torch.isfinite(scores)).nonzero()[0])
        raise NumericsError(
            f"score {wrong} of the {name} is {float(scores[wrong])}, so that it has no rank among the others; the model has diverged, "
            "or it gives a token no probability at all: leave that text out"
        )
    return scores.detach().double().cpu()
