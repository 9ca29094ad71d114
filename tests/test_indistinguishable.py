"""The Kolmogorov-Smirnov test where scipy's exact p fails: two sets of one size that are as near as chance makes them."""

import math
from fractions import Fraction

import pytest
import torch

from unlearn_lib.errors import InputError
from unlearn_lib.metrics.indistinguishable import kolmogorov_smirnov
from unlearn_lib.metrics.tofu import forget_quality


def apart(n: int, h: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two samples of n numbers that alternate but for the first h of one, so that their distance is h / n."""
    order = [0] * h + [1, 0] * (n - h) + [1] * h
    places = torch.arange(2.0 * n, dtype=torch.float64)
    mine = torch.tensor(order) == 0
    return places[mine], places[~mine]


def exact(n: int, h: int) -> float:
    """P(D >= h / n) of two samples of n, in whole numbers by the reflections of lattice paths:

    2 sum_{k >= 1} (-1)^(k + 1) C(2n, n - kh) / C(2n, n)
    """
    terms = sum((-1) ** (k + 1) * math.comb(2 * n, n - k * h) for k in range(1, n // h + 1))
    return float(Fraction(2 * terms, math.comb(2 * n, n)))


@pytest.mark.parametrize("n", [1, 5, 7, 13, 64, 110])
def test_the_smallest_distance_that_two_samples_can_have_is_no_evidence(n: int) -> None:
    """Without ties D is at least 1 / n, so that p is 1. Of these n scipy alone warns at 5, 7, 13 and 110."""
    found = kolmogorov_smirnov(*apart(n, 1))
    assert found.distance == pytest.approx(1 / n, rel=1e-12)
    assert exact(n, 1) == 1.0
    assert found.p == pytest.approx(1.0, abs=1e-15)
    assert found.p <= 1


@pytest.mark.parametrize(("n", "h"), [(60, 2), (135, 3), (8, 2), (8, 5), (64, 9), (40, 40), (399, 5)])
def test_p_is_the_share_of_paths(n: int, h: int) -> None:
    """(60, 2) and (135, 3) are two at which scipy alone warns."""
    for found in (kolmogorov_smirnov(*apart(n, h)), kolmogorov_smirnov(*reversed(apart(n, h)))):
        assert found.distance == pytest.approx(h / n, rel=1e-12)
        assert found.p == pytest.approx(exact(n, h), rel=1e-12)
        assert (found.n_forget, found.n_holdout) == (n, n)


def test_no_size_and_no_small_distance_warns() -> None:
    """Warnings are errors here. A larger distance is never the likelier one."""
    for n in (*range(1, 50), 200, 1000):
        ps = [kolmogorov_smirnov(*apart(n, h)).p for h in range(1, min(n, 8) + 1)]
        assert all(0 < p <= 1 for p in ps)
        assert ps == pytest.approx(sorted(ps, reverse=True), abs=1e-15)


def test_forget_quality_of_models_that_are_as_near_as_possible() -> None:
    one, other = apart(13, 1)
    found = forget_quality(one, other)
    assert (found.p, found.n, found.m) == (1.0, 13, 13)
    assert pytest.approx(1 / 13) == found.D


def test_an_empty_set_is_refused() -> None:
    with pytest.raises(InputError, match="at least one forget"):
        kolmogorov_smirnov(torch.tensor([]), torch.tensor([1.0]))
