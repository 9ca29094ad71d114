r"""Where the damage is: the rise of the loss of retained texts, by how near they are to the forgotten ones.

A mean over all retained texts hides a rise that a few of them bear, and those that are like the forgotten texts are the likeliest.
Retained texts are sorted by their nearness, the largest cosine of their TF-IDF vectors with a forgotten text's, and cut into slices of
about equally many. (`unlearn_lib.data.overlap` finds near copies, and says nothing of the many texts that are none.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from unlearn_lib.data.examples import Example
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.metrics.optional import sklearn

LEVEL = 0.95
"""Of the intervals."""


@dataclass(frozen=True)
class Slice:
    """Retained texts of similar nearness.

    Attributes:
        near: The least and the largest nearness in the slice, between 0 and 1.
        n: The number of its texts.
        rise: The mean rise of their losses, in nats.
        interval: The 95 % percentile bootstrap interval of that mean, over texts; NaN for a single text.
    """

    near: tuple[float, float]
    n: int
    rise: float
    interval: tuple[float, float]


def nearness(examples: Sequence[Example], forgotten: Sequence[Example]) -> Tensor:
    """`[n]`, float64: the largest cosine, between 0 and 1, of every text's TF-IDF vector with that of a forgotten text.

    The terms are tokens, weighted by scikit-learn's defaults (smooth idf over both sets), so that tokens that many texts share
    count little.

    Args:
        examples: The retained texts as wholes (`Encoded.texts`), not the pieces of long ones.
        forgotten: The forgotten texts as wholes.

    Raises:
        InputError: scikit-learn is not installed; no texts on one side.

    Cost: a sparse product of both sets, and memory for n times m cosines at most.
    """
    if not examples or not forgotten:
        raise InputError("nearness needs at least one retained and one forgotten text")
    texts = [example.input_ids for example in (*examples, *forgotten)]
    vectors = sklearn("feature_extraction.text").TfidfVectorizer(analyzer=tuple).fit_transform(texts)
    cosines = vectors[: len(examples)] @ vectors[len(examples) :].T
    return torch.from_numpy(cosines.max(axis=1).toarray().ravel()).clamp(0, 1)


def damage_by_slice(
    before_n: Tensor, after_n: Tensor, nearness_n: Tensor, count: int = 4, *, resamples: int = 2000, seed: int = 0
) -> list[Slice]:
    """The rise of the loss in slices of texts, from the farthest to the nearest.

    Args:
        before_n, after_n: Losses of the retained texts before and after unlearning, in nats (`text_losses`).
        nearness_n: Of the same texts.
        count: How many slices, between quantiles of the nearness. Texts of equal nearness are in one slice, so that there are fewer
            slices where many are equal.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        InputError: Different numbers of texts, or none; fewer than one slice or resample.
        NumericsError: A loss or a nearness is not finite.

    Cost: `resamples` means of n numbers.
    """
    if min(count, resamples) < 1 or not len(before_n) == len(after_n) == len(nearness_n) > 0:
        raise InputError(
            f"damage by slice takes both losses and the nearness of the same texts, at least one, and at least one slice and resample; got "
            f"{len(before_n)}, {len(after_n)} and {len(nearness_n)} numbers, count={count} and resamples={resamples}"
        )
    rise_n, near_n = ((values.double().cpu().numpy()) for values in (after_n.double() - before_n.double(), nearness_n))
    if not (np.isfinite(rise_n).all() and np.isfinite(near_n).all()):
        raise NumericsError("a loss or a nearness is not finite; look for a model that has diverged")
    # the lowest nearness of every slice but the first, each a value that occurs, so that no text lies between two slices
    bounds = np.unique(np.sort(near_n)[[len(near_n) * i // count for i in range(1, count)]]) if count > 1 else np.zeros(0)
    slice_n = np.searchsorted(bounds, near_n, side="right")
    generator = np.random.default_rng(seed)
    found = []
    for number in np.unique(slice_n):
        mine = slice_n == number
        # the interval must not depend on the order of the texts
        rises, near = np.sort(rise_n[mine]), near_n[mine]
        interval = _bootstrap(rises, resamples, generator)
        found.append(Slice((float(near.min()), float(near.max())), len(rises), float(rises.mean()), interval))
    return found


def _bootstrap(values: np.ndarray, resamples: int, generator: np.random.Generator) -> tuple[float, float]:
    if len(values) < 2:
        return float("nan"), float("nan")
    means = [generator.choice(values, len(values)).mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
