"""KL divergence of margins: the closed form against integrals, its floor against simulation, histograms by hand."""

import math
from typing import Any

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from unlearn_lib.data.batches import encode, make_batches
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.losses import evaluate
from unlearn_lib.metrics.klom import gaussian_floor, gaussian_kl, klom, margins, model_margins
from unlearn_lib.metrics.text_losses import text_losses


@pytest.mark.parametrize(("p", "q"), [((0, 1), (0, 1)), ((1, 0.3), (-2, 2)), ((-4, 2.5), (3, 0.7)), ((0, 1e-2), (0.02, 2e-2))])
def test_the_closed_form_is_the_integral(p: tuple[float, float], q: tuple[float, float]) -> None:
    """(mean, standard deviation) of both."""
    (mean, sd), density = p, norm(*p)
    expected, _ = quad(lambda x: density.pdf(x) * (density.logpdf(x) - norm(*q).logpdf(x)), mean - 12 * sd, mean + 12 * sd)
    values = [torch.tensor(float(value)) for value in (p[0], p[1] ** 2, q[0], q[1] ** 2)]
    assert gaussian_kl(*(value.double() for value in values)).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_klom_of_two_samples_by_hand() -> None:
    """Text 0: means 1 and 4, variances 2 and 8. Text 1: the same samples."""
    unlearned, retrained = torch.tensor([[0.0, 1.0], [2.0, 5.0]]), torch.tensor([[2.0, 5.0], [6.0, 1.0]])
    expected = 0.5 * (math.log(8 / 2) + (2 + 9) / 8 - 1)
    assert klom(unlearned, retrained).tolist() == pytest.approx([expected, 0.0])
    assert klom(retrained, unlearned)[0].item() == pytest.approx(0.5 * (math.log(2 / 8) + (8 + 9) / 2 - 1))


def test_margins_are_logits_of_the_geometric_mean_probability() -> None:
    losses = torch.tensor([0.1, 0.5, math.log(2), 3.0])
    p = losses.double().neg().exp()
    torch.testing.assert_close(margins(losses), torch.log(p / (1 - p)))
    assert margins(torch.tensor(math.log(2), dtype=torch.float64)).item() == pytest.approx(0, abs=1e-15)
    extreme = margins(torch.tensor([0.0, 1e-9, 900.0], dtype=torch.float64))
    assert extreme.tolist() == pytest.approx([math.inf, -math.log(1e-9), -900.0])
    for bad in (-0.1, math.nan, math.inf):
        with pytest.raises(NumericsError, match="negative or not finite"):
            margins(torch.tensor([1.0, bad]))


@pytest.mark.parametrize(("n", "m"), [(5, 5), (8, 5), (3, 12)])
def test_the_floor_is_what_equal_distributions_give_on_average(n: int, m: int) -> None:
    generator = torch.Generator().manual_seed(0)
    both = 7 + 3 * torch.randn(n + m, 400_000, generator=generator, dtype=torch.float64)
    found = klom(both[:n], both[n:])
    assert found.mean().item() == pytest.approx(gaussian_floor(n, m), rel=0.05)
    assert gaussian_floor(n, 3) == math.inf
    assert gaussian_floor(10**6, 10**6) == pytest.approx(0, abs=1e-5)


def test_klom_does_not_depend_on_the_order_of_models_or_a_shift() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(6, 4, generator=generator) for _ in range(2))
    for estimate in ("gaussian", "histogram"):
        plain = klom(one, other, estimate)
        torch.testing.assert_close(klom(one.flip(0), other.roll(2, 0), estimate), plain)
        torch.testing.assert_close(klom(one + 8, other + 8, estimate), plain, rtol=1e-4, atol=1e-6)


def test_histograms_by_hand() -> None:
    """On the range 0 to 20, bins of width 1. The largest margin is in the last bin."""
    unlearned, retrained = torch.tensor([[0.0, 0.5, 20.0, 20.0]]).T, torch.tensor([[0.2, 3.0, 4.0, 5.0]]).T
    # halves in the first and the last bin; of the retrained a quarter in the first, none in the last
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 1e-5)
    assert klom(unlearned, retrained, "histogram").tolist() == pytest.approx([expected])
    assert klom(unlearned, unlearned, "histogram").tolist() == [0.0]
    constant = torch.full((3, 1), 4.0)
    assert klom(constant, constant, "histogram").tolist() == [0.0]


def test_histograms_near_the_closed_form_with_many_models() -> None:
    generator = torch.Generator().manual_seed(0)
    unlearned, retrained = torch.randn(200_000, 1, generator=generator), 0.5 + torch.randn(200_000, 1, generator=generator)
    assert klom(unlearned, retrained, "histogram").item() == pytest.approx(0.125, rel=0.1)
    assert klom(unlearned, retrained).item() == pytest.approx(0.125, rel=0.05)


def test_margins_beyond_100_and_models_that_agree() -> None:
    known = torch.tensor([[math.inf], [100.0]])
    assert klom(known, torch.full((2, 1), 200.0)).tolist() == [0.0]
    same = torch.full((4, 1), 0.25)
    assert klom(same, same).tolist() == [0.0]
    assert torch.isfinite(klom(same, same + 1)).all()


def test_klom_refuses() -> None:
    two = torch.zeros(2, 3)
    with pytest.raises(InputError, match="at least two models, and there are 1 unlearned and 2 retrained"):
        klom(two[:1], two)
    with pytest.raises(InputError, match="cannot be compared text by text"):
        klom(two, two[:, :2])
    with pytest.raises(InputError, match="unknown estimate of klom 'kde'"):
        klom(two, two, "kde")  # type: ignore[arg-type]
    with pytest.raises(NumericsError, match="not a number"):
        klom(two, torch.full((2, 3), math.nan))
    with pytest.raises(InputError, match="at least two models; got 1 and 5"):
        gaussian_floor(1, 5)


def test_margins_of_models(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    """Models come one at a time, and the pieces of a long text count as one text."""
    rows = texts[-4:]
    examples = encode(rows, tokenizer, 24, long_texts="split").examples
    assert len(examples) > len(rows)
    found = model_margins((tiny("opt", seed=seed) for seed in range(3)), examples, batch_size=2)
    assert found.shape == (3, 4)
    torch.testing.assert_close(found[1], margins(text_losses(tiny("opt", seed=1), tokenizer, rows, max_length=24)))
    with pytest.raises(InputError, match="no models"):
        model_margins([], examples)
    with pytest.raises(InputError, match="no texts"):
        model_margins([], [])


def test_a_model_that_still_knows_the_texts_is_far(
    memorised: Any, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]
) -> None:
    """Orientation: learned texts against unseen ones; "unlearned" models that are as before, "retrained" ones that know nothing."""
    examples = encode([*texts[:10], *texts[24:34]], tokenizer, 256).examples
    known = margins(evaluate(memorised, make_batches(examples, 8)))
    generator = torch.Generator().manual_seed(0)
    unlearned = known + 0.1 * torch.randn(5, 20, generator=generator)
    retrained = known[10:].mean() + 0.1 * torch.randn(5, 20, generator=generator)
    found = klom(unlearned, retrained)
    assert found[:10].median() > 10 * found[10:].median()
