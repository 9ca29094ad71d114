"""The baselines against the losses of their sources, written out again here."""

from typing import Any

import pytest
import torch
from torch import Tensor

from unlearn_lib import unlearn
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.precision import KeepFloat64
from unlearn_lib.data.batches import collate, encode
from unlearn_lib.losses import IGNORED

FORGET, RETAIN = slice(0, 4), slice(4, 8)


def token_log_probs(model: Any, rows: list[dict[str, str]], tokenizer: Any) -> list[Tensor]:
    """For every text the log-probabilities of its tokens after the first, one text at a time."""
    found = []
    for row in rows:
        batch = collate(encode([row], tokenizer, 256).examples)
        with KeepFloat64():  # transformers takes the softmax of attention in float32
            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        labels = batch["labels"][0, 1:]
        assert not (labels == IGNORED).any()
        found.append(logits[0, :-1].log_softmax(-1)[torch.arange(len(labels)), labels])
    return found


def mean_nll(log_probs: list[Tensor]) -> Tensor:
    return torch.stack([-text.mean() for text in log_probs]).mean()


def gradient(loss: Tensor, model: Any) -> dict[str, Tensor]:
    names, params = zip(*model.named_parameters(), strict=True)
    with KeepFloat64():
        return dict(zip(names, torch.autograd.grad(loss, params), strict=True))


def one_step(tiny: Any, tokenizer: Any, texts: Any, method: str, **options: Any) -> dict[str, Tensor]:
    """The change of the parameters by one step of plain gradient descent with rate 0.01, over the rate."""
    model = tiny()
    options = {
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "epochs": 1,
        "forget_batch_size": None,
        "retain_batch_size": 4,
        **options,
    }
    result = unlearn(model, tokenizer, forget=texts[FORGET], retain=texts[RETAIN], method=method, **options)
    after = dict(result.model.named_parameters())
    return {name: (after[name] - p).detach() / -0.01 for name, p in model.named_parameters()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-7) -> None:
    for name, g in expected.items():
        torch.testing.assert_close(
            found[name], g, rtol=tolerance, atol=tolerance * float(max(h.abs().max() for h in expected.values()))
        )


def only_rounding(name: str) -> bool:
    """Attention does not see a key's bias: its gradient is the rounding of a softmax that is float32 in any model."""
    return name.endswith("k_proj.bias")


def test_gradient_difference(tiny: Any, tokenizer: Any, texts: Any) -> None:
    model = tiny()
    forget, retain = (mean_nll(token_log_probs(model, texts[part], tokenizer)) for part in (FORGET, RETAIN))
    found = one_step(tiny, tokenizer, texts, "gradient-difference", forget_weight=0.5, retain_weight=2.0)
    assert_same(found, gradient(-0.5 * forget + 2.0 * retain, model))


def test_the_kl_term_has_no_gradient_at_the_original(tiny: Any, tokenizer: Any, texts: Any) -> None:
    model = tiny()
    found = one_step(tiny, tokenizer, texts, "gradient-difference", retain_loss="kl", retain_weight=5.0)
    assert_same(found, gradient(-mean_nll(token_log_probs(model, texts[FORGET], tokenizer)), model))


def test_npo_sums_over_the_sequence(tiny: Any, tokenizer: Any, texts: Any) -> None:
    """At the original itself: the gradient of -(2/beta) log sigmoid(beta x) at x = 0 is -x' , x the summed NLL."""
    model = tiny()
    summed = torch.stack([-text.sum() for text in token_log_probs(model, texts[FORGET], tokenizer)]).mean()
    found = one_step(tiny, tokenizer, texts, "npo", beta=0.3, retain_weight=0.0)
    assert_same(found, gradient(-summed, model))


def npo_after_two_steps(tiny: Any, tokenizer: Any, texts: Any, beta: float) -> dict[str, Tensor]:
    model = tiny()
    options: dict[str, Any] = {
        "optimizer": "sgd",
        "learning_rate": 1e-3,
        "epochs": 2,
        "forget_batch_size": None,
        "retain_weight": 0.0,
    }
    result = unlearn(model, tokenizer, forget=texts[FORGET], retain=texts[RETAIN], method="npo", beta=beta, **options)
    return dict(result.model.named_parameters())


def test_npo_against_its_formula_away_from_the_original(tiny: Any, tokenizer: Any, texts: Any) -> None:
    beta, model = 0.2, tiny()
    reference = [text.detach() for text in token_log_probs(model, texts[FORGET], tokenizer)]
    for _ in range(2):
        ratios = [
            now.sum() - then.sum()
            for now, then in zip(token_log_probs(model, texts[FORGET], tokenizer), reference, strict=True)
        ]
        # the paper's form: (2 / beta) log(1 + (pi_theta / pi_ref)^beta)
        loss = torch.stack([2 / beta * torch.log1p(torch.exp(beta * ratio)) for ratio in ratios]).mean()
        with torch.no_grad():
            for (_, p), g in zip(model.named_parameters(), gradient(loss, model).values(), strict=True):
                p -= 1e-3 * g
    found = npo_after_two_steps(tiny, tokenizer, texts, beta)
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p, rtol=1e-9, atol=1e-11 if only_rounding(name) else 1e-12)


def test_npo_tends_to_ascent_on_the_summed_nll(tiny: Any, tokenizer: Any, texts: Any) -> None:
    model = tiny()
    for _ in range(2):
        summed = torch.stack([-text.sum() for text in token_log_probs(model, texts[FORGET], tokenizer)]).mean()
        with torch.no_grad():
            for (_, p), g in zip(model.named_parameters(), gradient(summed, model).values(), strict=True):
                p += 1e-3 * g
    distances = []
    for beta in (1e-2, 1e-3, 1e-4):
        found = npo_after_two_steps(tiny, tokenizer, texts, beta)
        distances.append(max(float((found[name] - p).detach().abs().max()) for name, p in model.named_parameters()))
    assert distances[1] < 0.2 * distances[0]
    assert distances[2] < 0.2 * distances[1]


def test_simnpo(tiny: Any, tokenizer: Any, texts: Any) -> None:
    model, beta, delta = tiny(), 4.5, 0.3
    forget = token_log_probs(model, texts[FORGET], tokenizer)
    terms = [-2 / beta * torch.log(torch.sigmoid(beta * (-text.mean() - delta))) for text in forget]
    retain = mean_nll(token_log_probs(model, texts[RETAIN], tokenizer))
    found = one_step(tiny, tokenizer, texts, "simnpo", beta=beta, delta=delta)
    assert_same(found, gradient(0.125 * torch.stack(terms).mean() + retain, model))


def test_one_adamw_step_has_the_length_of_the_rate(tiny: Any, tokenizer: Any, texts: Any) -> None:
    """Adam's first step, with its bias correction: rate g / (|g| + eps), downhill."""
    model = tiny()
    forget, retain = (mean_nll(token_log_probs(model, texts[part], tokenizer)) for part in (FORGET, RETAIN))
    g = gradient(retain - forget, model)
    found = one_step(tiny, tokenizer, texts, "gradient-difference", optimizer="adamw")
    for name, expected in g.items():
        assert found[name].abs().max() <= 1 + 1e-4
        if not only_rounding(name):  # which Adam blows up
            torch.testing.assert_close(found[name], expected / (expected.abs() + 1e-8), rtol=1e-4, atol=1e-6)


def test_a_step_of_ascent_takes_the_texts_in_parts(tiny: Any, tokenizer: Any, texts: Any) -> None:
    """The gradient over all of D-, however many texts go through the model at a time."""
    model, found = tiny(), {}
    g = gradient(mean_nll(token_log_probs(model, texts[:7], tokenizer)), model)
    for size in (3, 7):
        options: dict[str, Any] = {"method": "gradient-ascent", "step": 0.01, "batch_size": size}
        with Meter() as meter:
            result = unlearn(model, tokenizer, forget=texts[:7], **options)
        after = dict(result.model.named_parameters())
        assert_same({name: (after[name] - p).detach() / 0.01 for name, p in model.named_parameters()}, g)
        assert (result.cost.gradient_evaluations, len(result.history)) == (7, 1)
        found[size] = meter.peak
    assert found[3] < 0.7 * found[7]


def test_retain_batches_pass_over_all_texts_in_new_orders(tiny: Any, tokenizer: Any, texts: Any) -> None:
    from unlearn_lib.methods import GradientDifference, Inputs

    examples = encode(texts[:12], tokenizer, 256).examples
    method = GradientDifference(retain_batch_size=4)
    inputs = Inputs(examples[:2], examples[2:], None, 0)
    batches = [method._retain_batch(inputs, number, torch.device("cpu")) for number in range(4)]
    seen = [tuple(ids[mask.bool()].tolist()) for batch in batches for ids, mask in _rows(batch)]
    assert len(seen) == 16
    for start in (0, 8):
        assert len(set(seen[start : start + 8])) == 8  # no text twice within a pass
    assert seen[:8] != seen[8:]


def _rows(batch: Any) -> Any:
    return zip(batch["input_ids"], batch["attention_mask"], strict=True)


def test_ascent_until_the_model_knows_the_texts_no_better_than_unseen_ones(tiny: Any, tokenizer: Any, texts: Any) -> None:
    """Jang et al.: both memorisation accuracy and extraction likelihood at or below their mean over unseen texts."""
    from unlearn_lib import TrainingConfig, train
    from unlearn_lib.metrics.memorisation import extraction_likelihood, memorisation_accuracy, right_tokens

    model = tiny(dtype=torch.float32)
    train(model, tokenizer, texts[:12], TrainingConfig(60, 1e-2))
    short = [{"text": row["text"][:60]} for row in texts]
    options: dict[str, Any] = {"preset": "jang", "step": 2e-3, "n": 3, "epochs": 40}
    result = unlearn(model, tokenizer, forget=short[:3], holdout=short[30:34], method="gradient-ascent", **options)
    unseen = result.details["accuracy_of_unseen"], result.details["likelihood_of_unseen"]
    forget = encode(short[:3], tokenizer, 256).examples
    assert memorisation_accuracy(right_tokens(model, forget)) > unseen[0]
    assert len(result.history) < 40
    assert memorisation_accuracy(right_tokens(result.model, forget)) <= unseen[0]
    assert extraction_likelihood(result.model, forget, 3) <= unseen[1]
    goal = {"unseen_accuracy": unseen[0], "unseen_likelihood": unseen[1]}
    again = unlearn(result.model, tokenizer, forget=short[:3], method="gradient-ascent", **options, **goal)
    assert again.history == []
    assert again.cost.gradient_evaluations == 0
    assert any("nothing was done: the texts to forget are known by heart no better" in warning for warning in again.warnings)
    assert all(torch.equal(p, q) for p, q in zip(again.model.parameters(), result.model.parameters(), strict=True))


@pytest.mark.parametrize("method", ["gradient-ascent", "gradient-difference"])
def test_a_rate_that_is_too_large_is_refused(method: str, tiny: Any, tokenizer: Any, texts: Any) -> None:
    from unlearn_lib.errors import NumericsError

    options = {"step": 1e30, "epochs": 3} if method == "gradient-ascent" else {"learning_rate": 1e30, "optimizer": "sgd"}
    with pytest.raises(NumericsError, match="lower the learning rate"):
        unlearn(tiny(), tokenizer, forget=texts[FORGET], retain=texts[RETAIN], method=method, **options)
