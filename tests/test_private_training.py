"""DP-SGD: against plain SGD, by hand, and against opacus' accountant."""

import math
from typing import Any

import pytest
import torch

from unlearn_lib.data.batches import collate, encode
from unlearn_lib.errors import InputError
from unlearn_lib.losses import sequence_losses
from unlearn_lib.training.private import PrivacyConfig, clipped_sum, epsilon, noise_for, train_private


def gradients(model: Any, rows: list[dict[str, str]], tokenizer: Any) -> list[torch.Tensor]:
    """`[P]` for every text, by one backward pass each."""
    found = []
    for example in encode(rows, tokenizer, 256).examples:
        model.zero_grad()
        sequence_losses(model, collate([example])).sum().backward()
        found.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
    return found


def flat(model: Any) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def test_without_noise_and_with_a_huge_bound_it_is_sgd(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model, plain = tiny(), tiny()
    config = PrivacyConfig(0.0, clip_norm=1e9, batch_size=8, epochs=3, learning_rate=0.01, optimizer="sgd")
    spent = train_private(model, tokenizer, texts[:8], config, micro_batch_size=3)
    assert (spent.steps, spent.sampling_rate, spent.epsilon) == (3, 1.0, math.inf)
    stepper = torch.optim.SGD(plain.parameters(), lr=0.01)
    batch = collate(encode(texts[:8], tokenizer, 256).examples)
    for _ in range(3):
        stepper.zero_grad()
        sequence_losses(plain, batch).mean().backward()
        stepper.step()
    torch.testing.assert_close(flat(model), flat(plain), rtol=1e-6, atol=1e-9)


def test_the_whole_gradient_of_a_text_is_clipped(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model = tiny()
    expected = gradients(tiny(), texts[:6], tokenizer)
    bound = float(torch.stack(expected).norm(dim=1).median())
    found, mean_norm = clipped_sum(model, encode(texts[:6], tokenizer, 256).examples, bound, 4)
    total = sum(g * min(1.0, bound / float(g.norm())) for g in expected)
    torch.testing.assert_close(
        torch.cat([tensor.reshape(-1) for tensor in found.values()]), total, rtol=1e-5, atol=1e-6 * bound
    )
    assert mean_norm == pytest.approx(float(torch.stack(expected).norm(dim=1).mean()), rel=1e-5)


def test_noise_is_sigma_c_over_the_expected_batch(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    """One step in which all texts are taken, against the same without noise."""
    steps = []
    for sigma in (0.0, 3.0):
        model = tiny()
        config = PrivacyConfig(sigma, clip_norm=0.5, batch_size=8, epochs=1, learning_rate=1.0, optimizer="sgd")
        train_private(model, tokenizer, texts[:8], config, seed=4)
        steps.append(flat(model))
    noise = (steps[1] - steps[0]).numpy()
    assert noise.std() == pytest.approx(3.0 * 0.5 / 8, rel=0.02)
    assert abs(noise.mean()) < 4 * noise.std() / math.sqrt(len(noise))


def test_texts_are_drawn_by_poisson_sampling(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    """The size of the batch varies, and an empty one is still a step (of noise alone)."""
    model = tiny()
    before, seen = flat(model), []
    config = PrivacyConfig(1.0, batch_size=1, epochs=2, learning_rate=1e-6, optimizer="sgd")
    train_private(model, tokenizer, texts[:8], config, progress=lambda step, steps, norm: seen.append((step, steps, norm)))
    assert len(seen) == 16
    assert any(norm == 0 for _, _, norm in seen)
    assert not torch.equal(flat(model), before)


def test_epsilon_is_opacus(recwarn: Any) -> None:
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    for _ in range(50):
        accountant.step(noise_multiplier=1.1, sample_rate=0.02)
    assert epsilon(1.1, 0.02, 50, 1e-5) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)
    assert epsilon(0.5, 0.02, 50, 1e-5) > epsilon(1.0, 0.02, 50, 1e-5) > epsilon(1.0, 0.02, 10, 1e-5)


@pytest.mark.parametrize("wanted", [0.1, 0.5, 3.0, 100.0])
def test_noise_for_an_epsilon(wanted: float) -> None:
    sigma = noise_for(wanted, 0.05, 100, 1e-5)
    assert epsilon(sigma, 0.05, 100, 1e-5) <= wanted
    assert epsilon(0.98 * sigma, 0.05, 100, 1e-5) > wanted


@pytest.mark.parametrize(
    "values", [{"noise_multiplier": -1.0}, {"noise_multiplier": 1.0, "delta": 0.0}, {"noise_multiplier": 1.0, "clip_norm": 0.0}]
)
def test_bad_settings(values: dict[str, float], tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    with pytest.raises(InputError, match="are needed, got"):
        train_private(tiny(), tokenizer, texts[:4], PrivacyConfig(**values))
