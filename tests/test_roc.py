"""AUC, TPR at a low FPR and their intervals, against scipy, sklearn and all pairs."""

import math
from dataclasses import asdict

import pytest
import torch

from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.metrics.membership import attack
from unlearn_lib.metrics.roc import auc, true_positive_rate


def drawn(n: int, m: int, values: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of n members and m others with that many different values, members a little higher."""
    generator = torch.Generator().manual_seed(seed)
    members, others = (torch.randint(0, values, (size,), generator=generator).double() for size in (n, m))
    return members + values // 5, others


SIZES = pytest.mark.parametrize(("n", "m", "values"), [(1, 1, 2), (30, 17, 4), (200, 300, 25), (64, 64, 10_000), (5, 7, 1)])


@SIZES
def test_the_auc_is_that_of_scipy(n: int, m: int, values: int) -> None:
    from scipy.stats import mannwhitneyu

    members, others = drawn(n, m, values)
    expected = mannwhitneyu(members.numpy(), others.numpy()).statistic / (n * m)
    assert attack(members, others, resamples=1).auc == pytest.approx(expected, rel=1e-12)


@SIZES
def test_the_auc_is_that_of_sklearn(n: int, m: int, values: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics", reason="scikit-learn is no part of the test environment")
    members, others = drawn(n, m, values)
    expected = sklearn.roc_auc_score([1] * n + [0] * m, torch.cat([members, others]).numpy())
    assert attack(members, others, resamples=1).auc == pytest.approx(expected, rel=1e-12)


def test_by_hand() -> None:
    """Of 2 x 4 pairs 5 are right, and 2 are ties; half of the members are above all others, and all above the second highest."""
    members, others = torch.tensor([4.0, 2.0]), torch.tensor([3.0, 2.0, 2.0, 1.0])
    found = attack(members, others, fprs=(0.5, 0.25, 0.2))
    assert found.auc == (5 + 2 / 2) / 8
    # at most one false alarm: the threshold is above 2; at most two: it is above 2 as well, since both others at 2 would pass
    assert found.tpr == {0.5: 0.5, 0.25: 0.5, 0.2: None}
    assert (found.n, found.m, found.resolvable) == (2, 4, (0.5, 0.25))
    assert found.tpr_interval[0.2] is None
    assert true_positive_rate(members, others, 0.75) == 1.0


@pytest.mark.parametrize("m", [1000, 777, 170])
@pytest.mark.parametrize("values", [7, 60, 100_000])
def test_the_tpr_is_the_largest_of_all_thresholds(m: int, values: int) -> None:
    members, others = drawn(150, m, values)
    thresholds = [*sorted({*members.tolist(), *others.tolist()}), math.inf]
    curve = [((others >= t).sum().item() / m, (members >= t).sum().item() / 150) for t in thresholds]
    for limit in (0.001, 0.01, 0.07, 0.29, 0.5, 0.99):
        expected = max(tpr for fpr, tpr in curve if fpr <= limit)
        assert true_positive_rate(members, others, limit).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("m", "fpr"), [(100, 0.01), (1000, 0.001), (2900, 0.01), (100, 0.29), (3000, 0.001), (7, 3 / 7)])
def test_a_rate_that_is_reached_exactly_counts(m: int, fpr: float) -> None:
    """With others at 1 ... m, a threshold that exactly fpr m of them pass finds the member that is just above it."""
    others, count = torch.arange(1, m + 1).double(), round(fpr * m)
    members = torch.tensor([m - count + 0.5, m - count - 0.5])
    assert true_positive_rate(members, others, fpr) == 0.5


def test_what_few_texts_cannot_resolve_is_not_invented() -> None:
    members, others = torch.arange(50).double() + 1000, torch.arange(99).double()
    found = attack(members, others)
    assert found.auc == 1.0
    assert found.resolvable == ()
    assert found.tpr == {0.01: None, 0.001: None}
    assert found.tpr_interval == {0.01: None, 0.001: None}
    assert attack(members, torch.arange(100).double()).resolvable == (0.01,)
    assert attack(members, torch.arange(1000).double()).tpr == {0.01: 1.0, 0.001: 1.0}


def test_equal_scores_and_one_text() -> None:
    found = attack(torch.ones(3), torch.ones(5), fprs=(0.2,))
    assert (found.auc, found.auc_interval, found.tpr) == (0.5, (0.5, 0.5), {0.2: 0.0})
    found = attack(torch.tensor([2.0]), torch.tensor([1.0]))
    assert (found.auc, found.auc_interval) == (1.0, (1.0, 1.0))


def test_monotone_changes_and_order_do_not_matter() -> None:
    members, others = drawn(80, 120, 50)
    shuffled = members[torch.randperm(80, generator=torch.Generator().manual_seed(1))]
    found, other = attack(members, others), attack(shuffled.exp() * 3, others.exp() * 3)
    assert (found.auc, found.tpr) == (other.auc, other.tpr)
    assert attack(-members, -others).auc == pytest.approx(1 - found.auc, abs=1e-15)


def test_many_resamples_at_once_are_single_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    members, others = (torch.randint(0, 9, (4, size), generator=generator) for size in (11, 23))
    together = auc(members, others)
    rates = true_positive_rate(members, others, 0.1)
    for row in range(4):
        assert together[row] == auc(members[row], others[row])
        assert rates[row] == true_positive_rate(members[row], others[row], 0.1)


def test_the_interval_is_as_wide_as_the_spread_of_the_auc() -> None:
    """Of 200 pairs of sets the interval holds the true AUC about as often as it says: 0.90, by its own claim."""
    truth = 0.5 * (1 + math.erf(0.5))  # of N(1, 1) above N(0, 1): Phi(1 / sqrt(2))
    generator = torch.Generator().manual_seed(0)
    held = 0
    for seed in range(200):
        members, others = torch.randn(60, generator=generator) + 1, torch.randn(80, generator=generator)
        low, high = attack(members, others, confidence=0.9, resamples=200, seed=seed).auc_interval
        held += low <= truth <= high
    assert 0.84 <= held / 200 <= 0.96


def test_the_interval_of_the_tpr_is_that_of_a_share() -> None:
    """Others without spread leave the binomial's: of 400 members a half is found, so the standard error is 0.025."""
    members = torch.cat([torch.ones(200), -torch.ones(200)])
    low, high = attack(members, torch.zeros(10), fprs=(0.5,), resamples=2000).tpr_interval[0.5] or (0.0, 0.0)
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025), abs=0.006)


def test_the_seed_is_the_only_source_of_chance() -> None:
    members, others = drawn(40, 40, 500)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    found = attack(members, others, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert asdict(found) == asdict(attack(members, others, seed=3))
    assert found.auc_interval != attack(members, others, seed=4).auc_interval
    assert found.auc_interval[0] < found.auc < found.auc_interval[1]


def test_what_is_refused() -> None:
    some, none = torch.rand(5), torch.tensor([])
    for members, others in ((none, some), (some, none), (some.view(5, 1), some)):
        with pytest.raises(InputError, match="at least one of either kind"):
            attack(members, others)
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(NumericsError, match="score 2 of the others"):
            attack(some, torch.tensor([0.0, 1.0, bad]))
    with pytest.raises(NumericsError, match="score 0 of the members"):
        attack(torch.tensor([math.nan]), some)
    with pytest.raises(InputError, match="false positive rate"):
        attack(some, some, fprs=(1.0,))
    with pytest.raises(InputError, match="confidence"):
        attack(some, some, confidence=1.0)
    with pytest.raises(InputError, match="at least one resample"):
        attack(some, some, resamples=0)
