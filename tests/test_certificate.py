"""The bounds of certified removal against what they bound, and (epsilon, delta) against the Gaussian distribution."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from certified import D, V, random_texts, trained
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from unlearn_lib.curvature import softmax_head
from unlearn_lib.curvature.softmax_head import WEIGHT, HeadHessian, HeadRisk, HeadTexts
from unlearn_lib.errors import NumericsError
from unlearn_lib.methods.certificate import GAMMA, allowed_residual, data_bound, epsilon_spent, source_bound, worst_bound
from unlearn_lib.methods.certified_newton import CertifiedNewton
from unlearn_lib.models.certified import Certificate
from unlearn_lib.training.certified import Objective, minimise


def plain_risk(W_VD: torch.Tensor, texts: HeadTexts) -> torch.Tensor:
    """The sum of the texts' mean losses, written out for autograd."""
    nll_N = torch.nn.functional.cross_entropy(texts.features_Nd @ W_VD.T, texts.labels_N, reduction="none")
    return torch.stack([nll_N[texts.text_N == number].mean() for number in range(len(texts))]).sum()


def plain_objective(W_VD: torch.Tensor, state: Certificate) -> torch.Tensor:
    penalty = state.convexity(len(state.texts)) / 2 * W_VD.square().sum()
    return plain_risk(W_VD, state.texts) + penalty + (state.noise_Vd * W_VD).sum()


def head(seed: int = 0) -> torch.Tensor:
    return torch.randn(V, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("chunk", [1, 7 * V, 1 << 20])
def test_loss_gradient_and_hessian_are_those_of_autograd(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(softmax_head, "CHUNK", chunk)
    texts, W_VD = random_texts(9), head()
    risk = HeadRisk(texts)
    assert risk.loss(W_VD) == pytest.approx(float(plain_risk(W_VD, texts)), rel=1e-14)
    gradient_VD = torch.func.grad(plain_risk)(W_VD, texts)
    torch.testing.assert_close(risk.gradient(W_VD), gradient_VD, rtol=1e-13, atol=1e-13)
    dense = torch.func.hessian(plain_risk)(W_VD, texts).reshape(V * D, V * D)
    torch.testing.assert_close(HeadHessian(risk, W_VD).as_matrix(), dense, rtol=1e-12, atol=1e-13)


def test_texts_leave_with_all_their_tokens() -> None:
    texts = random_texts(6)
    left, gone = texts.without([1, 4]), texts.only([4, 1, 4])
    assert left.keys == ("text 0", "text 2", "text 3", "text 5")
    assert gone.keys == ("text 1", "text 4")
    assert float(plain_risk(head(), left) + plain_risk(head(), gone)) == pytest.approx(float(plain_risk(head(), texts)))


def test_gamma_is_attained_and_never_exceeded() -> None:
    """The third derivative of log sum exp, by autograd, along unit vectors: two tokens attain it, no other vector exceeds it."""

    def third(z_V: torch.Tensor, d_V: torch.Tensor) -> float:
        along = z_V.new_zeros((), requires_grad=True)
        value = torch.logsumexp(z_V + along * d_V, 0)
        for _ in range(3):
            (value,) = torch.autograd.grad(value, along, create_graph=True)
        return float(value.detach())

    q = 0.5 - 1 / (2 * math.sqrt(3))
    z_2 = torch.tensor([q, 1 - q], dtype=torch.float64).log()
    assert third(z_2, torch.tensor([1.0, -1.0], dtype=torch.float64) / math.sqrt(2)) == pytest.approx(GAMMA, rel=1e-12)
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for _ in range(500):
        z_V, d_V = torch.randn(2, V, generator=generator, dtype=torch.float64)
        largest = max(largest, abs(third(3 * z_V, d_V / d_V.norm())))
    assert 0.6 * GAMMA < largest <= GAMMA


def test_gamma_bounds_the_change_of_the_hessian_of_log_sum_exp() -> None:
    generator = torch.Generator().manual_seed(0)

    def covariance(z_V: torch.Tensor) -> torch.Tensor:
        p_V = z_V.softmax(0)
        return p_V.diag() - torch.outer(p_V, p_V)

    for scale in (1e-3, 0.3, 3.0):
        for _ in range(100):
            z_V, u_V = torch.randn(2, V, generator=generator, dtype=torch.float64)
            change = torch.linalg.matrix_norm(covariance(2 * z_V + scale * u_V) - covariance(2 * z_V), 2)
            assert float(change) <= GAMMA * scale * float(u_V.norm())


def test_the_bounds_hold_and_are_ordered_for_any_step() -> None:
    """|R| as it is defined: what the quadratic model of the gradient leaves out, for steps of every length."""
    for seed in range(30):
        texts, W_VD = random_texts(8, seed), head(seed)
        risk = HeadRisk(texts)
        D_VD = head(seed + 100) * 10 ** (seed % 4 - 2)
        left = risk.gradient(W_VD + D_VD) - risk.gradient(W_VD) - (HeadHessian(risk, W_VD) @ {WEIGHT: D_VD})[WEIGHT]
        assert float(left.norm()) <= data_bound(risk, D_VD) <= source_bound(risk, D_VD)
        assert source_bound(risk, D_VD) <= GAMMA / 2 * 8 * risk.largest_norm() ** 3 * float(D_VD.norm()) ** 2


def test_the_worst_case_is_the_form_of_the_sources_first_theorem() -> None:
    found = worst_bound(n=101, removed=1, radius=1.0, before=0.3 * 101, after=0.3 * 100)
    assert found == pytest.approx(4 * GAMMA / (0.3**2 * 100))
    assert worst_bound(101, 1, 1.0, 0.3 * 101, 0.3 * 101) == pytest.approx(GAMMA * 100 / (0.3 * 101) ** 2)


@pytest.mark.parametrize("penalty", ["fixed", "per-text"])
def test_a_hundred_removals_never_leave_more_than_the_bound(penalty: Any) -> None:
    """One text after the other; the gradient is measured on the texts that stay, by autograd, and compared with retraining."""
    state, method = trained(random_texts(130), 0.3, penalty=penalty), CertifiedNewton()
    worst, order = state.spent, torch.randperm(130, generator=torch.Generator().manual_seed(2)).tolist()
    for step, number in enumerate(order[:100]):
        spent = state.spent
        state, entry, _ = method.step(state, state.numbers([f"text {number}"]))

        residual = float(torch.func.grad(plain_objective)(state.head_Vd, state).norm())
        worst += entry["worst_bound"] + entry["solver_residual"]
        assert residual == pytest.approx(entry["residual"], rel=1e-3, abs=1e-13)
        assert 0 < residual <= state.spent < 0.1 * worst
        assert entry["data_bound"] <= entry["source_bound"] <= entry["worst_bound"]
        assert state.spent == pytest.approx(spent + entry["data_bound"] + entry["solver_residual"])
        if step % 20 == 0:
            n = len(state.texts) if penalty == "per-text" else 130
            exact = trained(state.texts, 0.3, penalty=penalty, trained=n)
            distance = float((state.head_Vd - exact.head_Vd).norm())
            assert distance <= (residual + exact.spent) / (0.3 * n)
    assert state.removed == 100
    assert len(state.texts) == 30


def test_what_is_spent_is_the_bound_that_was_asked_for() -> None:
    state = trained(random_texts(20), weight_decay=1.0)
    after, entry, _ = CertifiedNewton(bound="worst").step(state, [3])
    assert after.spent == pytest.approx(state.spent + entry["worst_bound"] + entry["solver_residual"])
    once, first, _ = CertifiedNewton(bound="measured").step(state, [3])
    twice, second, _ = CertifiedNewton(bound="measured").step(once, [3])
    assert [once.spent, twice.spent] == pytest.approx([first["residual"], second["residual"]])
    assert twice.spent > float(torch.func.grad(plain_objective)(twice.head_Vd, twice).norm())
    assert twice.spent < entry["data_bound"]


@pytest.mark.parametrize("penalty", ["fixed", "per-text"])
@pytest.mark.parametrize("numbers", [[3], [0, 7, 8]])
def test_the_step_is_that_of_a_dense_solve(numbers: list[int], penalty: Any) -> None:
    state = trained(random_texts(12), 0.2, penalty=penalty)
    after, lost = (0.2 * 12, 0.0) if penalty == "fixed" else (0.2 * (12 - len(numbers)), 0.2 * len(numbers))
    W_VD, left, gone = state.head_Vd, state.texts.without(numbers), state.texts.only(numbers)
    H = torch.func.hessian(plain_risk)(W_VD, left).reshape(V * D, V * D) + after * torch.eye(V * D, dtype=torch.float64)
    v = torch.func.grad(plain_risk)(W_VD, gone) + lost * W_VD
    expected_VD = W_VD + torch.linalg.solve(H, v.flatten()).view(V, D)
    found, _, _ = CertifiedNewton(tolerance=1e-12).step(state, numbers)
    torch.testing.assert_close(found.head_Vd, expected_VD, rtol=1e-9, atol=1e-11)


def test_a_solve_that_is_cut_short_spends_what_it_leaves() -> None:
    state = trained(random_texts(12), weight_decay=0.2)
    _, full, _ = CertifiedNewton().step(state, [3])
    after, short, solution = CertifiedNewton(max_steps=2).step(state, [3])
    assert solution.iterations == 2
    assert short["solver_residual"] > 1e3 * full["solver_residual"]
    assert after.spent == state.spent + short["solver_residual"] + short["data_bound"]


def test_with_large_weight_decay_the_head_and_its_removals_tend_to_the_centre() -> None:
    """lambda n W tends to -(B + the sum of gradients at 0), and the step to the gradient at 0 of what is removed."""
    texts, weight_decay = random_texts(10), 1e8
    state = trained(texts, weight_decay)
    zero_VD = torch.zeros(V, D, dtype=torch.float64)
    expected_VD = -(HeadRisk(texts).gradient(zero_VD) + state.noise_Vd) / (weight_decay * 10)
    torch.testing.assert_close(state.head_Vd, expected_VD, rtol=1e-6, atol=0)
    after, entry, _ = CertifiedNewton().step(state, [4])
    expected_VD = -(HeadRisk(texts.without([4])).gradient(zero_VD) + state.noise_Vd) / (weight_decay * 10)
    torch.testing.assert_close(after.head_Vd, expected_VD, rtol=1e-6, atol=0)
    assert entry["data_bound"] < 1e-14


def test_two_tokens_one_text_and_no_noise_have_a_known_head() -> None:
    """W = (a, -a) with lambda a = x / (1 + exp(2 a x)); with the source's penalty one of equal texts leaves without a change."""
    x, weight_decay = 1.7, 0.4
    texts = HeadTexts(torch.full((3, 1), x, dtype=torch.float64), torch.zeros(3, dtype=torch.long), torch.arange(3), ("a",) * 3)
    zero_21 = torch.zeros(2, 1, dtype=torch.float64)
    found = minimise(Objective(HeadRisk(texts), 3 * weight_decay, zero_21, zero_21), 1e-12)
    a = brentq(lambda a: weight_decay * a - x / (1 + math.exp(2 * a * x)), 0, 10, xtol=1e-14)
    torch.testing.assert_close(found.head_Vd, torch.tensor([[a], [-a]], dtype=torch.float64))
    state = Certificate(
        found.head_Vd, zero_21, zero_21, texts, weight_decay, "per-text", 3, 1.0, found.residual, 0, True, 0, None
    )
    after, entry, _ = CertifiedNewton().step(state, [1])
    assert entry["step_norm"] < 1e-11
    torch.testing.assert_close(after.head_Vd, found.head_Vd)


def test_a_state_that_is_no_minimum_is_found_out() -> None:
    state = trained(random_texts(12), weight_decay=10.0)
    with pytest.raises(NumericsError, match=r"above its bound .* train the head anew"):
        CertifiedNewton().step(replace(state, noise_Vd=2 * state.noise_Vd), [3])


def test_classical_accounting_is_the_sources_formula() -> None:
    allowed = allowed_residual(2.0, 0.5, 1e-5)
    assert allowed == pytest.approx(2 * 0.5 / math.sqrt(2 * math.log(1.5e5)))
    assert epsilon_spent(allowed, 2.0, 1e-5) == pytest.approx(0.5)
    assert epsilon_spent(0.1, 0.0, 1e-5) == math.inf


@pytest.mark.parametrize("epsilon", [0.01, 1.0, 8.0, 200.0])
@pytest.mark.parametrize("delta", [1e-9, 1e-5, 0.1])
def test_exact_accounting_is_the_hockey_stick_divergence(epsilon: float, delta: float) -> None:
    """delta is the integral of max(0, p(x) - exp(epsilon) q(x)) for normal densities p, q that are mu apart."""
    mu = allowed_residual(1.0, epsilon, delta, "exact")
    start = epsilon / mu - mu / 2  # where p = exp(epsilon) q, for p centred at 0 and q at -mu
    found, _ = quad(
        lambda x: max(0.0, norm.pdf(x) - math.exp(min(epsilon + norm.logpdf(x + mu), 700))), start, start + 40, epsabs=0
    )
    assert found == pytest.approx(delta, rel=1e-5)
    assert epsilon_spent(3 * mu, 3.0, delta, "exact") == pytest.approx(epsilon, rel=1e-6)


@pytest.mark.parametrize("epsilon", [0.05, 0.5, 1.0])
def test_exact_accounting_allows_more_where_both_are_proved(epsilon: float) -> None:
    assert allowed_residual(1.0, epsilon, 1e-5) < allowed_residual(1.0, epsilon, 1e-5, "exact")


def test_what_cannot_be_told_apart_at_all_has_no_epsilon() -> None:
    assert epsilon_spent(1e-7, 1.0, 1e-5, "exact") == 0.0
    assert epsilon_spent(0.0, 1.0, 1e-5) == epsilon_spent(0.0, 1.0, 1e-5, "exact") == 0.0
