"""LiRA against scipy's Gaussians, by hand, and on draws whose best attack is known."""

import math
from typing import Any

import pytest
import torch
from scipy.stats import norm

from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.metrics.lira import lira, logit_score, u_lira
from unlearn_lib.metrics.membership import attack


def drawn(k: int, n: int, mean: float, std: float = 1.0, seed: int = 0) -> torch.Tensor:
    return mean + std * torch.randn(k, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_logit_score() -> None:
    """log(p / (1 - p)); p = 1/2 gives 0, and neither end loses its digits."""
    p = torch.tensor([0.5, 0.9, 0.01], dtype=torch.float64)
    assert logit_score(-p.log()).tolist() == pytest.approx([0.0, math.log(9), math.log(1 / 99)], abs=1e-14)
    # 1 - exp(-loss) is loss for a small one, and 1 for a large one
    assert logit_score(torch.tensor([1e-15, 800.0], dtype=torch.float64)).tolist() == pytest.approx([15 * math.log(10), -800.0])
    found = logit_score(torch.linspace(1e-3, 30, 100))
    assert (found.diff() < 0).all()


def test_logit_score_refuses() -> None:
    with pytest.raises(InputError, match="at least zero"):
        logit_score(torch.tensor([1.0, -0.1]))
    for bad in (0.0, math.inf, math.nan):
        with pytest.raises(NumericsError, match="not finite"):
            logit_score(torch.tensor([1.0, bad]))


def test_lira_is_a_ratio_of_densities() -> None:
    inside, outside, observed = drawn(9, 6, 1.0, seed=1), drawn(5, 6, -1.0, 2.0, seed=2), drawn(1, 6, 0.0, seed=3)[0]
    expected = norm.logpdf(observed, inside.mean(0), inside.std(0, correction=1)) - norm.logpdf(
        observed, outside.mean(0), outside.std(0, correction=1)
    )
    assert lira(inside, outside, observed).tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    assert u_lira(inside, outside, observed).tolist() == lira(inside, outside, observed).tolist()


def test_by_hand() -> None:
    """In: mean 2, variance 2; out: mean 0, variance 2. At x: ((x - 0)^2 - (x - 2)^2) / 4 = x - 1."""
    inside, outside = torch.tensor([[1.0] * 3, [3.0] * 3]), torch.tensor([[-1.0] * 3, [1.0] * 3])
    assert lira(inside, outside, torch.tensor([0.0, 1.0, 5.0])).tolist() == pytest.approx([-1.0, 0.0, 4.0])


def test_fixed_variance() -> None:
    """Pooled within the texts: that texts have different means adds nothing to it."""
    inside = torch.tensor([[99.0, 3.0], [101.0, 3.0]])  # variances 2 and 0, together 1
    outside = torch.tensor([[97.0, -2.0], [103.0, 2.0]])  # variances 18 and 8, together 13
    observed = torch.tensor([102.0, 3.0])
    expected = norm.logpdf(observed, [100, 3], 1.0) - norm.logpdf(observed, [100, 0], math.sqrt(13))
    assert lira(inside, outside, observed, fixed_variance=True).tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    with pytest.raises(NumericsError, match="text 1 the same score"):
        lira(inside, outside, observed)


def test_units_and_order_of_shadows_do_not_matter() -> None:
    inside, outside, observed = drawn(6, 4, 1.0, seed=1), drawn(7, 4, 0.0, seed=2), drawn(1, 4, 0.5, seed=3)[0]
    expected = lira(inside, outside, observed)
    torch.testing.assert_close(lira(3 * inside + 7, 3 * outside + 7, 3 * observed + 7), expected)
    torch.testing.assert_close(lira(inside.flip(0), outside.flip(0), observed), expected)
    torch.testing.assert_close(lira(outside, inside, observed), -expected)


def test_it_recognises_members_that_no_threshold_on_the_score_does() -> None:
    """Texts are hard or easy by far more than training changes: the score alone tells nothing, the ratio nearly all."""
    n = 400
    hard_n = drawn(1, n, 0.0, 20.0, seed=9)[0]
    inside, outside = hard_n + 4 + drawn(16, n, 0.0, seed=1), hard_n + drawn(16, n, 0.0, seed=2)
    member = torch.arange(n) % 2 == 0
    observed = hard_n + 4 * member + drawn(1, n, 0.0, seed=3)[0]
    found = lira(inside, outside, observed, fixed_variance=True)
    # the best attack has the AUC Phi(4 / sqrt(2)) = .998
    assert attack(found[member], found[~member]).auc > 0.99
    assert attack(observed[member], observed[~member]).auc < 0.65
    # an unlearning that is as good as retraining cannot be told from it
    observed = hard_n + drawn(1, n, 0.0, seed=4)[0]
    same = u_lira(hard_n + drawn(16, n, 0.0, seed=5), outside, observed, fixed_variance=True)
    assert 0.4 < attack(same[member], same[~member]).auc < 0.6


def test_few_shadows_are_better_with_one_variance() -> None:
    n, member = 2000, torch.arange(2000) % 2 == 0
    inside, outside = drawn(2, n, 2.0, seed=1), drawn(2, n, 0.0, seed=2)
    observed = 2 * member + drawn(1, n, 0.0, seed=3)[0]
    aucs = []
    for fixed in (False, True):
        found = lira(inside, outside, observed, fixed_variance=fixed)
        aucs.append(attack(found[member], found[~member], resamples=1).auc)
    assert aucs[1] > aucs[0] + 0.05


@pytest.mark.parametrize(
    "shapes",
    [((3, 4), (3, 5), (4,)), ((3, 4), (3, 4), (5,)), ((4,), (3, 4), (4,)), ((3, 4), (3, 4), (1, 4)), ((3, 4), (4,), ())],
)
def test_shapes_are_checked(shapes: Any) -> None:
    with pytest.raises(InputError, match=r"have shapes .*give \[k, n\]"):
        lira(*(torch.rand(shape) for shape in shapes))


def test_too_few_or_useless_shadows() -> None:
    good, observed = drawn(3, 2, 0.0), torch.zeros(2)
    for inside, outside in ((good[:1], good), (good, good[:1]), (good[:0], good)):
        with pytest.raises(InputError, match="at least two of either kind"):
            lira(inside, outside, observed)
    with pytest.raises(NumericsError, match="text 0 the same score"):
        lira(good, torch.full((3, 2), 0.1), observed)
    with pytest.raises(NumericsError, match="text 0 the same score"):
        lira(good, torch.full((3, 2), 0.1), observed, fixed_variance=True)
    with pytest.raises(NumericsError, match="not finite"):
        lira(good, good, torch.tensor([0.0, math.nan]))
