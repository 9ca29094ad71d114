"""What to label next: an auditor has a pool of texts that a model wrote, and can afford to have only some of them labelled.

A text is described by its features x (an embedding, its loss), and a classifier says with which probability p it leaks. Random,
uncertain and diverse choices are what LLMaAA (arXiv 2310.19596) compares for labels by a language model; the last policy looks for leaks:

    random        every text that has no label is equally likely
    uncertainty   the least |p - 1/2|
    diversity     k-means with as many clusters as texts are wanted; the text nearest to each centre
    both          diversity among the `CANDIDATES` times as many texts that are the least certain
    likely        the largest p: the texts that most probably leak

Ties are broken by the seed, so that a classifier that knows nothing (all p equal) chooses at random.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unlearn_lib.errors import InputError, unknown
from unlearn_lib.metrics.optional import sklearn

Floats = NDArray[np.float64]
Policy = Literal["random", "uncertainty", "diversity", "both", "likely"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
CANDIDATES = 5
"""How many times as many uncertain texts "both" takes its choice from."""


def choose(
    policy: Policy, features_ND: Floats, probabilities_N: Floats, labelled: Collection[int], count: int, *, seed: int = 0
) -> list[int]:
    """The texts to label next.

    Args:
        policy: "random", "uncertainty", "diversity", "both" or "likely", as the module says.
        features_ND: `[N, D]`, a row for every text of the pool, scaled so that Euclidean distances mean something ("diversity", "both").
        probabilities_N: `[N]`, how probably each text leaks ("uncertainty", "both"); of "likely" their order alone counts, so that any
            score serves, such as minus the loss.
        labelled: Positions of the texts that have a label already; they are not chosen again.
        count: How many texts to choose.
        seed: Of the draw, of ties and of k-means.

    Returns:
        `count` different positions without a label.

    Raises:
        InputError: An unknown policy; other numbers of features and probabilities, or values that are not finite; fewer texts without
            a label than `count`, or a count below 1; scikit-learn is not installed ("diversity", "both").

    Cost: a sort; "diversity" and "both" run k-means on the texts without a label, or on the uncertain ones of them.
    """
    features_ND, probabilities_N = np.asarray(features_ND, dtype=np.float64), np.asarray(probabilities_N, dtype=np.float64)
    if policy not in POLICIES:
        raise unknown("policy", policy, POLICIES)
    if features_ND.ndim != 2 or probabilities_N.shape != features_ND.shape[:1]:
        raise InputError(
            f"features are a row and probabilities a number for every text, got {features_ND.shape} and {probabilities_N.shape}; "
            "give both for the same pool"
        )
    if not (np.isfinite(features_ND).all() and np.isfinite(probabilities_N).all()):
        raise InputError("a feature or a probability is not finite, and texts cannot be compared by it; leave that text out")
    draws = np.random.default_rng(seed)
    open_n = draws.permutation(np.setdiff1d(np.arange(len(features_ND)), np.asarray(sorted(labelled), dtype=np.int64)))
    if not 1 <= count <= len(open_n):
        raise InputError(
            f"{count} texts are to be chosen, and {len(open_n)} of the pool's {len(features_ND)} have no label; choose between 1 and that"
        )
    if policy == "uncertainty":
        return _first(open_n, np.abs(probabilities_N - 0.5), count)
    if policy == "likely":
        return _first(open_n, -probabilities_N, count)
    if policy == "both":
        open_n = np.array(_first(open_n, np.abs(probabilities_N - 0.5), CANDIDATES * count))
    if policy in ("diversity", "both"):
        return [int(open_n[i]) for i in spread(features_ND[open_n], count, seed=seed)]
    return [int(i) for i in open_n[:count]]


def spread(features_ND: Floats, count: int, *, seed: int = 0) -> list[int]:
    """`count` different texts from all over the pool: for every centre of k-means the nearest text that is not chosen yet.

    Texts that are the same to the digit count as one when clusters are made. Where there are fewer different texts than `count`, the
    centres choose once more.

    Args:
        features_ND: `[N, D]`, the texts to choose from.
        count: How many, between 1 and N.
        seed: Of the first centres.

    Raises:
        InputError: scikit-learn is not installed.

    Cost: four runs of Lloyd's algorithm.
    """
    clusters = min(count, len(np.unique(features_ND, axis=0)))
    means = sklearn("cluster").KMeans(n_clusters=clusters, n_init=4, random_state=seed % 2**32).fit(features_ND)
    distances_NK: Floats = ((features_ND[:, None] - means.cluster_centers_[None]) ** 2).sum(-1)
    chosen: list[int] = []
    for number in range(count):
        distance_N = distances_NK[:, number % clusters].copy()
        distance_N[chosen] = np.inf
        chosen.append(int(distance_N.argmin()))
    return chosen


def nearest(features_ND: Floats, text: int, among: Sequence[int], k: int) -> list[int]:
    """The k texts of `among` whose features are nearest to those of a text, the nearest first; the demonstrations of its prompt.

    Fewer than k where `among` holds no more, and never the text itself.
    """
    others = [i for i in among if i != text]
    distances = ((features_ND[others] - features_ND[text]) ** 2).sum(-1)
    return [others[i] for i in np.argsort(distances, kind="stable")[:k]]


def _first(open_n: NDArray[np.int64], value_N: Floats, count: int) -> list[int]:
    """The texts with the lowest values; `open_n` stands in random order, and the stable sort leaves ties in it."""
    return [int(i) for i in open_n[np.argsort(value_N[open_n], kind="stable")[:count]]]
