"""Exposure by extrapolation: the tail against closed forms, fits to samples of a known distribution, and the ranking."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_ndtr, ndtr, owens_t
from scipy.stats import halfnorm, skewnorm

from unlearn_lib.data.batches import Example, encode
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.metrics.exposure import BITS_PER_NAT, exposure, exposures, matched_losses
from unlearn_lib.metrics.extrapolation import extrapolated_exposure, extrapolated_exposures, log_cdf

TRUTH = skewnorm(3.0, 2.0, 0.5)
POINTS = (-60.0, -37.0, -8.0, -3.0, -0.5, 0.0, 1.0, 4.0)


def of(losses: list[float], references: Any) -> Any:
    rows = torch.as_tensor(references, dtype=torch.float64).expand(len(losses), -1)
    return extrapolated_exposure(torch.tensor(losses, dtype=torch.float64), rows)


@pytest.mark.parametrize("z", POINTS)
def test_the_tail_against_closed_forms(z: float) -> None:
    """A shape of 0 is the normal distribution, of 1 its square, and of -1 what is left of that of the other tail."""
    assert log_cdf(z, 0.0) == pytest.approx(log_ndtr(z), rel=1e-9)
    assert log_cdf(z, 1.0) == pytest.approx(2 * log_ndtr(z), rel=1e-9)
    assert log_cdf(z, -1.0) == pytest.approx(log_ndtr(z) + math.log(2 - ndtr(z)), rel=1e-9)


@pytest.mark.parametrize(("z", "shape"), [(-0.9, 3.0), (-1.5, 2.0), (-3.5, -4.0), (0.02, 60.0), (0.5, 5.0)])
def test_the_tail_against_owens_function(z: float, shape: float) -> None:
    assert math.exp(log_cdf(z, shape)) == pytest.approx(ndtr(z) - 2 * owens_t(z, shape), rel=1e-6)


def test_the_tail_of_a_half_normal_falls_without_noise() -> None:
    """Far in the tail log F is the log of the density over its slope, (1 + a^2) |z|, up to parts in (a z)^2."""
    for z, shape in ((-0.5, 1e3), (-0.1, 1e7), (-30.0, 1e5)):
        square = (1 + shape**2) * z * z
        expected = -square / 2 - math.log(math.pi * shape * -z * math.sqrt(1 + shape**2) * math.sqrt(square))
        assert log_cdf(z, shape) == pytest.approx(expected, rel=1e-5)


def test_the_tail_has_no_step_where_the_formula_changes() -> None:
    for shape in (-2.0, 0.7, 6.0):
        z = float(skewnorm.ppf(1e-3, shape))
        below, above = log_cdf(z - 1e-7, shape), log_cdf(z + 1e-7, shape)
        assert 0 <= above - below < 1e-4


def test_samples_of_a_known_distribution() -> None:
    """The exposure is -log F of the distribution that the references were drawn from, far beyond their number, too."""
    references = TRUTH.rvs(4000, random_state=0)
    losses = [float(TRUTH.ppf(q)) for q in (0.5, 0.1, 1e-2)] + [1.2, 1.0]
    truth = torch.tensor([-log_cdf((loss - 2.0) / 0.5, 3.0) for loss in losses], dtype=torch.float64)
    found = of(losses, references)
    assert truth[-1] > 20  # 4,000 references can rank up to 8.3 nats
    assert found.maximum == pytest.approx(math.log(4000))
    torch.testing.assert_close(found.nats_n, truth, rtol=0.1, atol=0.02)
    torch.testing.assert_close(found.bits_n, found.nats_n * BITS_PER_NAT)
    torch.testing.assert_close(found.bits_n[:2], torch.tensor([1.0, math.log2(10)]).double(), rtol=0.02, atol=0.0)
    assert found.distance_n.max() < 0.02
    assert found.p_n.min() > 0.1
    for name, value in (("shape_n", 3.0), ("location_n", 2.0), ("scale_n", 0.5)):
        assert getattr(found, name)[0].item() == pytest.approx(value, rel=0.1)


def test_inside_the_references_it_is_the_ranking() -> None:
    references = TRUTH.rvs(1000, random_state=1)
    losses = np.quantile(references, [0.02, 0.1, 0.3, 0.6, 0.95]).tolist()
    ranked = exposure(torch.tensor(losses), torch.as_tensor(references).expand(5, -1))
    torch.testing.assert_close(of(losses, references).nats_n, ranked, rtol=0.0, atol=0.25)


def test_the_unit_of_the_losses_does_not_matter() -> None:
    references = TRUTH.rvs(300, random_state=2)
    losses = [1.0, 1.9, 2.4]
    moved = of([5 * loss - 3 for loss in losses], 5 * references - 3)
    torch.testing.assert_close(of(losses, references).nats_n, moved.nats_n, rtol=2e-3, atol=2e-3)


def test_a_bad_fit_is_seen() -> None:
    """References of two kinds: no skew-normal distribution has two peaks."""
    two = np.concatenate([TRUTH.rvs(200, random_state=3), 6 + TRUTH.rvs(200, random_state=4)])
    found = of([2.0], two)
    assert found.distance_n.item() > 0.1
    assert found.p_n.item() < 1e-6


def test_references_with_a_hard_end_have_a_large_shape() -> None:
    """Of a half-normal below its end: the shape shows that the large exposure means nothing."""
    found = of([0.9], 1 + halfnorm.ppf((np.arange(100) + 0.5) / 100))
    assert found.shape_n.item() > 20
    assert found.nats_n.item() > 15


def test_every_sample_has_its_own_references() -> None:
    rows = [TRUTH.rvs(60, random_state=seed) + seed for seed in (2, 0, 1)]
    order = [0, 1, 2, 1, 0]
    losses = torch.tensor([2.2, 0.7, 2.0, 1.9, 3.0], dtype=torch.float64)
    found = extrapolated_exposure(losses, torch.as_tensor(np.stack([rows[i] for i in order])))
    alone = [of([loss], rows[i]).nats_n.item() for loss, i in zip(losses.tolist(), order, strict=True)]
    assert found.nats_n.tolist() == pytest.approx(alone)


def test_of_a_model(memorised: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    """A text that it knows by heart lies beyond what its references can rank; one that it does not know lies among them."""
    references = encode([{"text": row["text"] + " " + row["text"]} for row in texts[10:]], tokenizer, 256).examples[14:]
    others = encode([{"text": (row["text"] * 2)[5:]} for row in texts[24:]], tokenizer, 256).examples
    samples = encode([texts[0], texts[26]], tokenizer, 256).examples
    found, ranked = (measure(memorised, samples, [*references, *others]) for measure in (extrapolated_exposures, exposures))
    assert found.maximum == ranked.maximum == math.log(len(references) + len(others))
    assert found.nats_n[0] > ranked.maximum
    assert ranked.nats_n[0] == ranked.maximum
    assert abs(found.nats_n[1] - ranked.nats_n[1]) < 1.0
    direct = extrapolated_exposure(*matched_losses(memorised, samples, [*references, *others]))
    assert torch.equal(found.nats_n, direct.nats_n)


def test_what_cannot_be_fitted_is_refused(memorised: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    with pytest.raises(InputError, match="19 are too few"):
        of([1.0], np.arange(19.0))
    with pytest.raises(InputError, match="one row of references a sample"):
        extrapolated_exposure(torch.ones(3), torch.rand(2, 30))
    with pytest.raises(InputError, match="references of sample 1 have the same loss"):
        extrapolated_exposure(torch.ones(2), torch.stack([torch.arange(30.0), torch.ones(30)]))
    for loss, first in ((math.nan, 0.0), (1.0, math.inf)):
        with pytest.raises(NumericsError, match="not finite"):
            of([loss], [first, *range(1, 30)])
    one = Example((5, tokenizer.eos_token_id), (5, tokenizer.eos_token_id))
    with pytest.raises(InputError, match="sample 0 have the same loss"):
        extrapolated_exposures(memorised, [one], encode(texts, tokenizer, 256).examples)
