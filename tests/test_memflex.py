"""MemFlex: which tensors are located, by hand; what then moves; and gradient difference where everything is located."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unlearn_lib import load_model, save_model, unlearn
from unlearn_lib.curvature import trainable
from unlearn_lib.curvature.precision import KeepFloat64
from unlearn_lib.data.batches import Example, collate, encode
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED, sequence_losses
from unlearn_lib.methods import Inputs, MemFlex
from unlearn_lib.methods.corruption import Corruption, replaceable
from unlearn_lib.methods.memflex import cosines, sizes
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import prepare

FORGET, RETAIN, HOLDOUT = slice(0, 4), slice(4, 10), slice(10, 16)
EVERYTHING: dict[str, Any] = {"mu": 1.0, "sigma": 0.0}


def gradients(model: Any, tokenizer: Any, rows: list[dict[str, str]]) -> dict[str, Tensor]:
    """The gradient of the mean loss, text by text."""
    names, params = zip(*model.named_parameters(), strict=True)
    total = [torch.zeros_like(p) for p in params]
    for row in rows:
        with KeepFloat64():
            loss = sequence_losses(model, collate(encode([row], tokenizer, 256).examples)).mean() / len(rows)
            total = [a + b for a, b in zip(total, torch.autograd.grad(loss, params), strict=True)]
    return dict(zip(names, total, strict=True))


def located_by_hand(model: Any, tokenizer: Any, texts: Any, mu: float, sigma: float) -> list[str]:
    forget, retain = (gradients(model, tokenizer, texts[part]) for part in (FORGET, RETAIN))
    return [
        name
        for name, g in forget.items()
        if torch.nn.functional.cosine_similarity(g.flatten(), retain[name].flatten(), dim=0) < mu and g.abs().mean() > sigma
    ]


def run(model: Any, tokenizer: Any, texts: Any, method: str = "memflex", **options: Any) -> Any:
    return unlearn(model, tokenizer, forget=texts[FORGET], retain=texts[RETAIN], method=method, **options)


def moved(before: Any, after: Any) -> set[str]:
    new = dict(after.named_parameters())
    return {name for name, p in before.named_parameters() if not torch.equal(new[name], p)}


def test_the_located_tensors_are_those_of_the_formula(tiny: Any, tokenizer: Any, texts: Any) -> None:
    model = tiny()
    expected = located_by_hand(model, tokenizer, texts, mu=0.7, sigma=2e-3)
    assert 2 < len(expected) < len(trainable(model)) - 2
    result = run(model, tokenizer, texts, mu=0.7, sigma=2e-3, corrupted=0.0, copies=1)
    found = result.details["located"]
    assert (found["names"], found["tensors"], found["of"]) == (expected[:20], len(expected), len(trainable(model)))
    assert found["parameters"] == sum(model.get_parameter(name).numel() for name in expected)
    assert moved(model, result.model) == set(expected)


def test_one_step_on_the_located_tensors(tiny: Any, tokenizer: Any, texts: Any) -> None:
    model = tiny()
    options: dict[str, Any] = {"mu": 0.7, "sigma": 2e-3, "corrupted": 0.0, "copies": 1, "epochs": 1, "optimizer": "sgd"}
    result = run(model, tokenizer, texts, learning_rate=0.01, forget_weight=0.5, retain_weight=2.0, **options)
    expected = set(located_by_hand(model, tokenizer, texts, mu=0.7, sigma=2e-3))
    forget, retain = (gradients(model, tokenizer, texts[part]) for part in (FORGET, RETAIN))
    for name, p in result.model.named_parameters():
        step = (2.0 * retain[name] - 0.5 * forget[name]) if name in expected else torch.zeros_like(p)
        torch.testing.assert_close(p.detach(), model.get_parameter(name).detach() - 0.01 * step, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("scale", ["value", "quantile"])
@pytest.mark.parametrize("retain_loss", ["nll", "kl"])
def test_where_everything_is_located_it_is_gradient_difference(
    scale: str, retain_loss: str, tiny: Any, tokenizer: Any, texts: Any, fingerprint: Any
) -> None:
    options: dict[str, Any] = {"learning_rate": 1e-3, "epochs": 3, "forget_batch_size": 2, "retain_batch_size": 3}
    options |= {"retain_loss": retain_loss, "seed": 5}
    expected = run(tiny(), tokenizer, texts, "gradient-difference", **options)
    found = run(tiny(), tokenizer, texts, **options, **EVERYTHING, scale=scale)
    assert fingerprint(found.model) == fingerprint(expected.model)
    assert found.history == expected.history
    assert found.details["located"]["tensors"] == found.details["located"]["of"] == len(trainable(tiny()))


def test_quantiles_are_shares_of_the_tensors(tiny: Any, tokenizer: Any, texts: Any) -> None:
    """And do not depend on the scale of the gradients, which values do."""
    result = run(tiny(), tokenizer, texts, scale="quantile", mu=0.5, sigma=0.0)
    found, half = result.details["located"], len(trainable(tiny())) / 2
    assert found["below_mu"] in (int(half), int(half + 0.5))
    assert found["above_sigma"] == found["of"]
    quarter = run(tiny(), tokenizer, texts, scale="quantile", mu=1.0, sigma=0.75).details["located"]
    assert abs(quarter["above_sigma"] - half / 2) <= 1


def test_thresholds_that_nothing_passes_are_refused_with_the_numbers(tiny: Any, tokenizer: Any, texts: Any) -> None:
    number = len(trainable(tiny()))
    with pytest.raises(InputError, match=f"no tensor is located: of {number} tensors, {number} have a cosine .* and 0 a mean"):
        run(tiny(), tokenizer, texts, mu=1.0, sigma=1e9)
    with pytest.raises(InputError, match=f"of {number} tensors, 0 have a cosine below mu .* raise mu, lower sigma"):
        run(tiny(), tokenizer, texts, mu=-0.9999, sigma=0.0)
    with pytest.raises(InputError, match=r"shares of the tensors, 0 < mu <= 1 and 0 <= sigma < 1, got mu=0\.5 and sigma=2"):
        run(tiny(), tokenizer, texts, scale="quantile", mu=0.5, sigma=2.0)


def test_cosines_and_sizes_by_hand() -> None:
    one = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0, -2.0]), "c": torch.zeros(2)}
    other = {"a": torch.tensor([4.0, 3.0]), "b": torch.tensor([-2.0, 4.0]), "c": torch.ones(2)}
    assert cosines(one, other) == pytest.approx({"a": 24 / 25, "b": -1.0, "c": 0.0})
    assert sizes(one) == pytest.approx({"a": 3.5, "b": 1.5, "c": 0.0})


def test_half_of_the_scored_tokens_are_replaced_and_no_others(tokenizer: Any, tiny: Any) -> None:
    tokens = replaceable(tiny(), tokenizer)
    assert not set(tokens) & set(tokenizer.all_special_ids)
    (text,) = encode(
        [{"prompt": "Who lives in the old house?", "completion": " Nobody has lived there since."}], tokenizer, 64
    ).examples
    places = [i for i, label in enumerate(text.labels) if label != IGNORED and text.input_ids[i] != tokenizer.eos_token_id]
    corruption = Corruption(0.5, tokens, seed=0)
    drawn = [corruption.of(text) for _ in range(200)]
    changed = [{i for i, token in enumerate(one.input_ids) if token != text.input_ids[i]} for one in drawn]
    assert set().union(*changed) == set(places)
    assert max(map(len, changed)) == len(places) // 2
    assert all(one.labels[i] == one.input_ids[i] for one in drawn for i in places)
    assert all(one.labels[i] == text.labels[i] for one in drawn for i in range(len(text.labels)) if i not in places)
    assert len(set(drawn)) > 190
    assert Corruption(0.0, tokens, seed=0).of(text) == text


def test_the_first_token_is_never_replaced() -> None:
    text = Example((1, 2, 3, 4), (1, 2, 3, 4))
    for one in map(Corruption(1.0, range(100, 200), seed=0).of, [text] * 20):
        assert one == text  # none of its tokens may be replaced
    for one in map(Corruption(1.0, range(1000), seed=0).of, [text] * 20):
        assert one.input_ids[0] == 1


def test_what_required_a_gradient_requires_it_afterwards(tiny: Any, tokenizer: Any, texts: Any) -> None:
    """Also after a refusal, and what was frozen is frozen still."""
    model = tiny()
    model.model.decoder.embed_positions.requires_grad_(False)
    before = set(trainable(model))
    forget, retain = (encode(texts[part], tokenizer, 256).examples for part in (FORGET, RETAIN))
    outcome = MemFlex(scale="quantile", mu=0.5, sigma=0.2).run(model, Inputs(forget, retain, None, 0, tokenizer=tokenizer))
    assert outcome.details["located"]["tensors"] < len(before) == outcome.details["located"]["of"]
    assert set(trainable(model)) == before
    with pytest.raises(InputError, match="no tensor is located"):
        MemFlex(sigma=1e9).run(model, Inputs(forget, retain, None, 0, tokenizer=tokenizer))
    assert set(trainable(model)) == before


def test_grouping_does_not_matter_where_it_locates(tiny: Any, tokenizer: Any, texts: Any) -> None:
    found = [run(tiny(), tokenizer, texts, batch_size=size, mu=0.7, sigma=2e-3).details["located"] for size in (1, 5)]
    assert found[0] == found[1]


def test_calibration_stops_at_the_goal_and_moves_the_located_tensors_alone(memorised: Any, tokenizer: Any, texts: Any) -> None:
    sets: dict[str, Any] = {"forget": texts[:5], "retain": texts[5:24], "holdout": texts[24:]}
    options: dict[str, Any] = {"scale": "quantile", "mu": 0.7, "sigma": 0.3, "learning_rate": 5e-3, "retain_weight": 0.1}
    result = unlearn(memorised, tokenizer, **sets, method="memflex", stop="calibrate", epochs=200, retain_limit=None, **options)
    assert result.details["reached"] == pytest.approx(result.details["goal"], rel=0.05)
    located = result.details["located"]
    assert len(moved(memorised, result.model)) == located["tensors"] < located["of"]


@pytest.mark.parametrize(
    "options", [{}, {"copies": 1, "located_on": 2}, {"stop": "calibrate", "target_loss": 1e9, "epochs": 1}]
)
def test_the_plan_counts_what_is_taken(options: dict[str, Any], tiny: Any, tokenizer: Any, texts: Any) -> None:
    model, options = tiny(dtype=torch.float32), {"retain_batch_size": 4, "sigma": 0.0, **options}
    request = Request(forget=texts[FORGET], retain=texts[RETAIN], method="memflex", options=options)
    prepared = prepare(model, tokenizer, request)
    planned = prepared.method.plan(model, prepared.inputs)
    assert planned.gradient_evaluations == run(model, tokenizer, texts, **options).cost.gradient_evaluations
    assert "gradients that locate the tensors" in planned.detail


def test_a_seed_repeats_and_another_draws_other_tokens(tiny: Any, tokenizer: Any, texts: Any, fingerprint: Any) -> None:
    model = tiny()
    before = fingerprint(model)
    found = [fingerprint(run(model, tokenizer, texts, seed=seed, scale="quantile", mu=0.5).model) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    assert fingerprint(model) == before


def test_the_result_is_saved_and_loads(tiny: Any, tokenizer: Any, texts: Any, fingerprint: Any, tmp_path: Path) -> None:
    result = run(tiny(), tokenizer, texts, scale="quantile", mu=0.5)
    save_model(result.model, tokenizer, tmp_path / "model")
    assert fingerprint(load_model(tmp_path / "model", dtype="float64", device="cpu")[0]) == fingerprint(result.model)
