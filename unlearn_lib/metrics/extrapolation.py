r"""Exposure by extrapolation (Carlini et al. 2019, arXiv 1802.08232): beyond what a ranking among R references can show.

A ranking says of a sample below all references that its exposure is at least log R. Instead, a skew-normal distribution with the
distribution function F is fitted to the references' losses, and the exposure of a sample with the loss l is

    exposure = -log F(l)

so that in the middle of the references it is that of the ranking, and below them it goes on as the tail of F does. **Beyond log R
it rests on the fit alone**, and no test on the references can confirm a tail in which none of them lies. The distance of
Kolmogorov and Smirnov between the references and F is reported beside it: where it is large, the exposure is worth nothing at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearn_lib.data.examples import Example
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.metrics.exposure import Exposures, matched_losses

LEAST = 20
"""References that a fit of three parameters takes at least; some hundred are better."""
TAIL = 1e-3
"""Below this value F is integrated on a logarithmic scale; scipy's own loses all digits near 1e-16."""


@dataclass(frozen=True, eq=False)
class Extrapolated(Exposures):
    """Exposures by extrapolation; every tensor is `[n]`, float64. `nats_n` (and `bits_n`) may lie above `maximum`, which is where the
    ranking among as many references ends.

    Attributes:
        shape_n, location_n, scale_n: The parameters of the fitted skew-normal, the last two in nats. A shape of 20 or
            more is nearly a half-normal, which has a lower end: exposures below that are arbitrarily large and mean nothing.
        distance_n: The Kolmogorov-Smirnov distance between the references and the fit, between 0 and 1; small is a good fit.
        p_n: The p-value of that test. The distribution was fitted to the same references, so that the p-value is too large: a small one
            speaks against the fit, a large one hardly for it.
    """

    shape_n: Tensor
    location_n: Tensor
    scale_n: Tensor
    distance_n: Tensor
    p_n: Tensor


def extrapolated_exposure(losses_n: Tensor, reference_nR: Tensor) -> Extrapolated:
    """The exposure of every sample by extrapolation.

    Args:
        losses_n: `[n]`, the samples' losses, in nats.
        reference_nR: `[n, R]`, for every sample the losses of R references of its length, as of `exposure`.

    Raises:
        InputError: Fewer than 20 references; two numbers of samples; references that all have the same loss, to which nothing can be
            fitted.
        NumericsError: A loss is not finite.

    Cost: a fit of some hundredths of a second for every different row of references.
    """
    losses, reference = losses_n.double().cpu(), reference_nR.double().cpu()
    if reference.ndim != 2 or len(losses) != len(reference):
        raise InputError(
            f"there are {len(losses)} samples and references of shape {tuple(reference.shape)}; give one row of references a sample"
        )
    if reference.shape[1] < LEAST:
        raise InputError(
            f"a distribution is fitted to the references' losses, and {reference.shape[1]} are too few for its three parameters; give "
            f"{LEAST} or more, better some hundred"
        )
    if not bool(losses.isfinite().all() and reference.isfinite().all()):
        raise NumericsError("a loss is not finite, so that no exposure can be computed; look for a model that has diverged")
    constant = (reference.amax(1) == reference.amin(1)).nonzero()
    if len(constant):
        raise InputError(
            f"all references of sample {int(constant[0, 0])} have the same loss, to which no distribution can be fitted; leave the "
            "sample out, or take its exposure by ranking"
        )
    rows_MR, which_n = reference.unique(dim=0, return_inverse=True)
    fits_M5 = torch.tensor([_fit(row_R.numpy()) for row_R in rows_MR], dtype=torch.float64)
    shape_n, location_n, scale_n, distance_n, p_n = fits_M5[which_n].unbind(1)
    z_n = (losses - location_n) / scale_n
    nats = [-log_cdf(z, a) for z, a in zip(z_n.tolist(), shape_n.tolist(), strict=True)]
    maximum = float(np.log(reference.shape[1]))
    return Extrapolated(torch.tensor(nats, dtype=torch.float64), maximum, shape_n, location_n, scale_n, distance_n, p_n)


def extrapolated_exposures(model: Any, samples: Sequence[Example], references: Sequence[Example]) -> Extrapolated:
    """The exposure of every sample by extrapolation, against the beginnings of the references as `exposures` takes them.

    Raises:
        InputError, NumericsError: As of `exposures` and of `extrapolated_exposure`. A sample without a token to score, which ties with
            every reference, has no exposure here.

    Cost: one forward pass over samples and references, and a fit for every length of a sample.
    """
    return extrapolated_exposure(*matched_losses(model, samples, references))


def log_cdf(z: float, shape: float) -> float:
    r"""The logarithm of the standard skew-normal's distribution function at z, in nats, accurate far below 1e-16, too.

    Below `TAIL` the density f is log-concave and rises at z with the slope s = (log f)'(z) > 0, so that
    $F(z) = \frac{f(z)}{s} \int_0^\infty \frac{f(z - v/s)}{f(z)}\,dv$ with an integrand that is at most exp(-v).
    """
    from scipy.integrate import quad
    from scipy.special import erfcx, log_ndtr
    from scipy.stats import skewnorm

    value = float(skewnorm.cdf(z, shape))
    # the derivative of log_ndtr at x is sqrt(2 / pi) / erfcx(-x / sqrt(2)), which neither underflows nor loses digits
    slope = float(-z + shape * np.sqrt(2 / np.pi) / erfcx(-shape * z / np.sqrt(2)))
    if value > TAIL or slope <= 0 or not np.isfinite(slope):
        return float(np.log(value)) if value > 0 else -np.inf
    at = np.log(2) - z * z / 2 - np.log(2 * np.pi) / 2 + log_ndtr(shape * z)
    area, _ = quad(lambda v: np.exp(_log_ratio(z, -v / slope, shape)), 0, 50)
    return float(at - np.log(slope) + np.log(area))


def _log_ratio(z: float, step: float, shape: float) -> float:
    """log (f(z + step) / f(z)), without the difference of two large numbers where both are far in the tail."""
    from scipy.special import erfcx, log_ndtr

    half = step * (2 * z + step) / 2  # of the difference of the squares
    here, there = shape * z, shape * (z + step)
    if max(here, there) < 0:  # log_ndtr(x) is -x^2 / 2 + log(erfcx(-x / sqrt(2)) / 2)
        return float(np.log(erfcx(-there / np.sqrt(2)) / erfcx(-here / np.sqrt(2))) - (1 + shape**2) * half)
    return float(log_ndtr(there) - log_ndtr(here) - half)


def _fit(reference_R: Any) -> tuple[float, float, float, float, float]:
    """Shape, location, scale, and the test of the fit: distance and p."""
    from scipy.stats import FitError, kstest, skewnorm

    try:
        fitted = tuple(map(float, skewnorm.fit(reference_R)))
    except FitError as error:
        raise NumericsError(
            f"no skew-normal distribution could be fitted to the references' losses ({error}); take exposure by ranking"
        ) from error
    test = kstest(reference_R, skewnorm(*fitted).cdf)
    return (*fitted, float(test.statistic), float(test.pvalue))  # type: ignore[return-value]
