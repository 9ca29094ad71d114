"""What to label next, and weights for noisy labels: hand-computed cases, and derivatives by autograd."""

from typing import Any

import numpy as np
import pytest
import torch

from unlearn_lib.audit.labelling import CANDIDATES, POLICIES, choose, nearest, spread
from unlearn_lib.audit.reweighting import (
    gradients,
    leak_probabilities,
    learnt_weights,
    step_weights,
    with_constant,
)
from unlearn_lib.errors import InputError

CENTRES = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])


def clusters(each: int = 6) -> tuple[Any, Any]:
    """Texts in four far clusters, and which one each belongs to."""
    draws = np.random.default_rng(0)
    return np.repeat(CENTRES, each, axis=0) + 0.3 * draws.standard_normal((4 * each, 2)), np.repeat(np.arange(4), each)


def test_diversity_takes_one_of_each_cluster() -> None:
    features_ND, cluster_N = clusters()
    for seed in range(5):
        chosen = choose("diversity", features_ND, np.zeros(24), (), 4, seed=seed)
        assert sorted(cluster_N[chosen]) == [0, 1, 2, 3]


def test_of_each_cluster_it_is_the_text_nearest_to_the_centre() -> None:
    features_ND = np.array([[0.0], [1.0], [1.1], [20.0], [21.0], [21.2]])
    assert sorted(spread(features_ND, 2)) == [1, 4]  # centres 0.7 and 20.73


def test_uncertainty_takes_the_nearest_to_the_boundary_and_likely_the_highest() -> None:
    probabilities_N = np.array([0.02, 0.45, 0.9, 0.61, 0.3])
    features_ND = np.zeros((5, 2))
    assert choose("uncertainty", features_ND, probabilities_N, (), 2) == [1, 3]
    assert choose("uncertainty", features_ND, probabilities_N, (1,), 2) == [3, 4]
    assert choose("likely", features_ND, probabilities_N, (), 2) == [2, 3]


def test_any_score_serves_likely() -> None:
    losses_N = np.array([2.0, 0.1, 1.0, 0.5])
    assert choose("likely", np.zeros((4, 1)), -losses_N, (1,), 2) == [3, 2]


def test_both_spreads_among_the_uncertain() -> None:
    """The last cluster is certain, so that nothing of it is chosen, though it is the farthest."""
    features_ND, cluster_N = clusters(each=10)
    probabilities_N = np.where(cluster_N == 3, 0.99, 0.4)
    chosen = choose("both", features_ND, probabilities_N, (), 30 // CANDIDATES)
    assert set(cluster_N[chosen]) == {0, 1, 2}


@pytest.mark.parametrize("policy", POLICIES)
def test_no_text_twice_and_all_in_the_end(policy: Any) -> None:
    features_ND, _ = clusters()
    probabilities_N = np.random.default_rng(1).random(24)
    labelled: list[int] = []
    for number in range(6):
        new = choose(policy, features_ND, probabilities_N, labelled, 4, seed=number)
        assert new == choose(policy, features_ND, probabilities_N, labelled, 4, seed=number)
        labelled += new
    assert sorted(labelled) == list(range(24))
    with pytest.raises(InputError, match="1 texts are to be chosen, and 0 of the pool's 24 have no label"):
        choose(policy, features_ND, probabilities_N, labelled, 1)


@pytest.mark.parametrize("policy", ["uncertainty", "likely"])
def test_a_classifier_that_knows_nothing_chooses_at_random(policy: Any) -> None:
    features_ND, even_N = np.zeros((50, 1)), np.full(50, 0.2)
    by_seed = [choose(policy, features_ND, even_N, (), 5, seed=seed) for seed in range(3)]
    assert by_seed == [choose("random", features_ND, even_N, (), 5, seed=seed) for seed in range(3)]
    assert len({tuple(chosen) for chosen in by_seed}) == 3


def test_texts_that_are_the_same_do_not_stop_diversity() -> None:
    features_ND = np.array([[0.0], [0.0], [0.0], [9.0], [9.0]])
    assert sorted(choose("diversity", features_ND, np.zeros(5), (), 5)) == [0, 1, 2, 3, 4]
    assert sorted(features_ND[choose("diversity", features_ND, np.zeros(5), (), 2), 0]) == [0.0, 9.0]


def test_what_cannot_be_chosen_is_refused() -> None:
    features_ND = np.zeros((3, 2))
    with pytest.raises(InputError, match="4 texts are to be chosen, and 3 of the pool's 3"):
        choose("random", features_ND, np.zeros(3), (), 4)
    with pytest.raises(InputError, match="0 texts are to be chosen"):
        choose("random", features_ND, np.zeros(3), (), 0)
    with pytest.raises(InputError, match="unknown policy 'best'"):
        choose("best", features_ND, np.zeros(3), (), 1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a row and probabilities a number for every text"):
        choose("random", features_ND, np.zeros(2), (), 1)
    with pytest.raises(InputError, match="not finite"):
        choose("random", features_ND, np.array([0.0, np.nan, 1.0]), (), 1)


def test_nearest_demonstrations_first_and_never_the_text_itself() -> None:
    features_ND = np.array([[0.0], [5.0], [1.0], [-2.0]])
    assert nearest(features_ND, 0, [0, 1, 2, 3], 2) == [2, 3]
    assert nearest(features_ND, 0, [1], 5) == [1]
    assert nearest(features_ND, 0, [1, 2], 0) == []


def test_a_flipped_label_has_weight_zero() -> None:
    """At theta = 0 the gradient is (1/2 - y) x. Trusted: x = 1 leaks, so that g_trusted = -1/2. Of the labels x = 1 leaks (-1/2),
    x = 1 does not (+1/2), x = -2 does not (-1) and x = 0: agreement 1/4, none, 1/2 and 0; of mean 1: 4/3, 0, 8/3, 0."""
    noisy_ND, labels_N = np.array([[1.0], [1.0], [-2.0], [0.0]]), np.array([True, False, False, True])
    weights_N = step_weights(np.zeros(1), noisy_ND, labels_N, np.array([[1.0]]), np.array([True]))
    assert weights_N == pytest.approx([4 / 3, 0, 8 / 3, 0])
    nothing_N = step_weights(np.zeros(1), noisy_ND[:1], np.array([False]), np.array([[1.0]]), np.array([True]))
    assert nothing_N.tolist() == [0.0]


def test_weights_are_the_meta_gradient_by_autograd() -> None:
    """Minus the derivative of the trusted loss, after one step, by the weight of each label; in float64."""
    torch.manual_seed(0)
    x_ND, z_MD = torch.randn(7, 3).double(), torch.randn(4, 3).double()
    y_N, u_M, theta_D = torch.rand(7) < 0.5, torch.rand(4) < 0.5, torch.randn(3).double()
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    start_D = theta_D.clone().requires_grad_()
    epsilon_N, rate = torch.zeros(7, dtype=torch.float64, requires_grad=True), 0.3
    weighted = (epsilon_N * loss(x_ND @ start_D, y_N.double(), reduction="none")).sum()
    (step_D,) = torch.autograd.grad(weighted, start_D, create_graph=True)
    (slope_N,) = torch.autograd.grad(loss(z_MD @ (theta_D - rate * step_D), u_M.double()), epsilon_N)
    expected_N = (-slope_N / rate).clamp(min=0).numpy()
    found_N = step_weights(theta_D.numpy(), x_ND.numpy(), y_N.numpy(), z_MD.numpy(), u_M.numpy())
    np.testing.assert_allclose(found_N, expected_N * 7 / expected_N.sum(), rtol=1e-12)
    (slopes_D,) = torch.autograd.grad(loss(x_ND @ start_D, y_N.double(), reduction="sum"), start_D)
    np.testing.assert_allclose(gradients(theta_D.numpy(), x_ND.numpy(), y_N.numpy()).sum(0), slopes_D.numpy(), rtol=1e-12)


def test_learnt_weights_find_flipped_labels_and_help_where_trusted_ones_tell_enough() -> None:
    draws = np.random.default_rng(0)
    leaks_N = np.arange(240) % 2 == 0
    features_ND = np.where(leaks_N[:, None], 1.0, -1.0) * [1.0, 0.5] + 0.5 * draws.standard_normal((240, 2))
    said_N = leaks_N[:200].copy()
    flipped_N = (np.arange(200) % 2 == 0) & (draws.random(200) < 0.6)  # most leaks are overlooked
    said_N[flipped_N] = False
    weights_N = learnt_weights(features_ND[:200], said_N, features_ND[200:], leaks_N[200:])
    assert (weights_N >= 0).all()
    assert weights_N.mean() == pytest.approx(1)
    assert weights_N[flipped_N].mean() < 0.5 * weights_N[~flipped_N].mean()

    def wrong(weights_N: Any) -> float:
        probabilities_N = leak_probabilities(features_ND[:200], said_N, weights_N, features_ND)
        return float(((probabilities_N > 0.5) != leaks_N).mean())

    assert wrong(weights_N) < 0.05 < wrong(None)


def test_one_step_of_learnt_weights_is_that_of_theta_zero() -> None:
    features_ND, labels_N = np.array([[1.0], [2.0]]), np.array([True, False])
    trusted_MD, trusted_M = np.array([[3.0]]), np.array([True])
    expected_N = step_weights(np.zeros(2), with_constant(features_ND), labels_N, with_constant(trusted_MD), trusted_M)
    assert learnt_weights(features_ND, labels_N, trusted_MD, trusted_M, steps=1).tolist() == expected_N.tolist()


def test_labels_without_weight_do_not_count() -> None:
    features_ND = np.array([[-2.0], [-1.0], [1.0], [2.0], [2.5]])
    labels_N = np.array([False, False, True, True, False])
    with_N = leak_probabilities(features_ND, labels_N, np.array([1.0, 1, 1, 1, 0]), features_ND)
    without_N = leak_probabilities(features_ND[:4], labels_N[:4], None, features_ND)
    assert with_N == pytest.approx(without_N, abs=1e-4)
    assert with_N[0] < 0.5 < with_N[4]


def test_one_class_tells_nothing_apart() -> None:
    features_ND = np.array([[1.0], [2.0], [3.0]])
    assert leak_probabilities(features_ND, np.zeros(3, dtype=bool), None, features_ND[:2]).tolist() == [0.2, 0.2]
    one_N = leak_probabilities(features_ND, np.array([True, False, True]), np.array([1.0, 0.0, 1.0]), features_ND[:1])
    assert one_N.tolist() == [0.75]


def test_what_cannot_be_weighted_is_refused() -> None:
    x, y = np.zeros((2, 1)), np.array([True, False])
    with pytest.raises(InputError, match="weights need texts with noisy labels and texts with trusted ones"):
        learnt_weights(x, y, x[:0], y[:0])
    with pytest.raises(InputError, match="weights need texts with noisy labels"):
        step_weights(np.zeros(1), x, y[:1], x, y)
    with pytest.raises(InputError, match="at least one step at a positive rate"):
        learnt_weights(x, y, x, y, steps=0)
    with pytest.raises(InputError, match="a classifier takes at least one labelled text"):
        leak_probabilities(x, y, np.array([1.0, -1.0]), x)
    with pytest.raises(InputError, match="a classifier takes at least one labelled text"):
        leak_probabilities(x[:0], y[:0], None, x)
