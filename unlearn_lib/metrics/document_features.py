r"""What document-level membership inference looks at: token probabilities, normalised, as features of a document (Meeus et al., arXiv
2310.15007).

For a token of probability p where the most likely token had probability p_max, and norm a statistic of that token:

    RatioNorm   -log(p / norm)
    MaxNorm     -log((1 - (p_max - p)) / norm)
    NoNorm      -log p

The statistic is TF, the token's frequency in reference texts, or GP, its mean predicted probability on them: a rare token that is
predicted well says more than a frequent one. Features are aggregates of a document's values (AggFE), or their histogram (HistFE).
Everything here is a function of arrays, in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unlearn_lib.errors import InputError, unknown

Floats = NDArray[np.float64]
Norm = Literal["ratio", "max", "none"]

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)
AGGREGATES = ("mean", "min", "max", "std", "count", *(f"percentile {share}" for share in PERCENTILES))
"""The features of `aggregate`, in order."""


@dataclass(frozen=True, eq=False)
class Document:
    """What a model says of a document's tokens but the first, each `[S]`: the tokens, and log p and log p_max in nats."""

    tokens_S: NDArray[np.int64]
    log_p_S: Floats
    log_max_S: Floats


def log_norms(statistic_V: Floats) -> Floats:
    """`[V]`: the logarithms of a token statistic, in which a token that never occurred (0) counts half of the smallest other value.

    Raises:
        InputError: A value is negative or not finite, or none is above 0.
    """
    if not (np.isfinite(statistic_V).all() and (statistic_V >= 0).all() and (statistic_V > 0).any()):
        raise InputError(
            "a token statistic holds numbers that are at least 0, and some above 0; give reference texts with tokens"
        )
    unseen = statistic_V[statistic_V > 0].min() / 2
    logs: Floats = np.log(np.where(statistic_V > 0, statistic_V, unseen))
    return logs


def token_frequencies(texts: Sequence[Sequence[int]], vocabulary: int) -> Floats:
    """`[V]`: TF, the share of every token among those of all texts.

    Raises:
        InputError: No tokens; a token outside of the vocabulary.
    """
    tokens = np.concatenate([np.zeros(0, dtype=np.int64), *(np.asarray(text, dtype=np.int64) for text in texts)])
    if not len(tokens) or tokens.min() < 0 or tokens.max() >= vocabulary:
        raise InputError(f"frequencies need texts with tokens from 0 to {vocabulary - 1}; check the texts and their tokenizer")
    return np.bincount(tokens, minlength=vocabulary) / len(tokens)


def normalised(document: Document, log_norm_V: Floats, norm: Norm = "ratio") -> Floats:
    """`[S]`: RatioNorm, MaxNorm or NoNorm of every token of a document, in nats; high where the model did not expect the token.

    The argument of a logarithm is at least the smallest positive float64, which bounds a value at 708 nats. (The source's code puts
    1e-5, the value of a token that is expected, where a value is not finite.)

    Args:
        document: What the model says of it.
        log_norm_V: From `log_norms`; not used by "none".
        norm: Which of the three.

    Raises:
        InputError: A token for which there is no statistic; an unknown norm.
    """
    if norm not in get_args(Norm):
        raise unknown("norm", norm, get_args(Norm))
    tiny = np.finfo(np.float64).tiny
    if norm == "none":
        return -np.maximum(document.log_p_S, np.log(tiny))
    if len(document.tokens_S) and document.tokens_S.max() >= len(log_norm_V):
        raise InputError(
            f"a document has the token {document.tokens_S.max()}, and there is a statistic of {len(log_norm_V)} tokens; give one that was "
            "made with the same tokenizer"
        )
    if norm == "ratio":
        log_S = np.maximum(document.log_p_S, np.log(tiny))
    else:
        # 1 - p_max by expm1, which keeps its digits where the model is nearly sure
        log_S = np.log(np.maximum(np.exp(document.log_p_S) - np.expm1(document.log_max_S), tiny))
    values: Floats = log_norm_V[document.tokens_S] - log_S
    return values


def aggregate(values_S: Floats) -> Floats:
    """`[14]`: AggFE, the features named in `AGGREGATES`; the standard deviation is that of the values themselves (divided by S).

    Raises:
        InputError: No values.
    """
    _check(values_S)
    plain = [values_S.mean(), values_S.min(), values_S.max(), values_S.std(), len(values_S)]
    return np.array([*plain, *np.percentile(values_S, PERCENTILES)], dtype=np.float64)


def bin_edges(values: Sequence[Floats], bins: int) -> Floats:
    """`[K + 1]`: edges of K bins of equal width on the range of the values of all training documents.

    Raises:
        InputError: No values; fewer than one bin.
    """
    if bins < 1:
        raise InputError(f"a histogram has at least one bin; got {bins}")
    for values_S in values:
        _check(values_S)
    edges: Floats = np.histogram_bin_edges(np.concatenate(values), bins=bins)
    return edges


def histogram(values_S: Floats, edges: Floats) -> Floats:
    """`[K]`: HistFE, the density of a document's values in the bins. Values outside of the training documents' range are counted in the
    first or the last bin. (The source's code leaves them out, and divides by 0 where nothing else is there.)

    Raises:
        InputError: No values.
    """
    _check(values_S)
    density: Floats = np.histogram(np.clip(values_S, edges[0], edges[-1]), edges, density=True)[0]
    return density


def _check(values_S: Floats) -> None:
    if not len(values_S):
        raise InputError("a document has no token that the model predicts, so it has no features; leave it out")
