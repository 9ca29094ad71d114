"""What holds of every first-order method that others have published: the given model, the seed, folders, plans, the goal."""

from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn_lib import load_model, save_model, text_losses, unlearn
from unlearn_lib.methods import METHODS
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import prepare

NAMES = ("wga", "undial", "dpo", "rmu")
DRAWS = ("dpo", "rmu")
"""Those that draw more from the seed than the order of the retained texts."""
FORGET, RETAIN = slice(0, 5), slice(5, 24)


def sets(texts: Any) -> dict[str, Any]:
    return {"forget": texts[FORGET], "retain": texts[RETAIN]}


@pytest.mark.parametrize("method", NAMES)
def test_same_seed_same_result(method: str, tiny: Any, tokenizer: Any, texts: Any, fingerprint: Any) -> None:
    model = tiny()
    given = fingerprint(model)

    def found(seed: int) -> str:
        # with as many retained texts as one step takes, their order makes no difference beyond rounding
        rows = {"forget": texts[:4], "retain": texts[4:8], "optimizer": "sgd", "learning_rate": 1e-2}
        result = unlearn(model, tokenizer, **rows, method=method, epochs=1, seed=seed, retain_batch_size=4).model
        return str([round(float(p.detach().sum()), 6) + 0.0 for p in result.parameters()])  # zero has one sign

    assert found(1) == found(1)
    assert (found(1) != found(2)) == (method in DRAWS)
    assert fingerprint(model) == given


@pytest.mark.parametrize("method", NAMES)
def test_a_result_is_saved_and_loaded(
    method: str, tiny: Any, tokenizer: Any, texts: Any, tmp_path: Path, fingerprint: Any
) -> None:
    result = unlearn(tiny(), tokenizer, **sets(texts), method=method, epochs=1)
    save_model(result.model, tokenizer, tmp_path / "model")
    again, _ = load_model(tmp_path / "model", device="cpu", dtype="float64")
    ids = torch.tensor([tokenizer(texts[0]["text"])["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, result.model(ids).logits, rtol=1e-5, atol=1e-6)  # other attention kernels
    assert fingerprint(again) == fingerprint(result.model)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        pytest.param(method, options, marks=pytest.mark.nightly if options and method != NAMES[0] else ())
        for method in NAMES
        for options in ({}, {"retain_loss": "kl", "retain_weight": 2.0}, {"forget_batch_size": 2})
    ],
)
def test_the_plan_is_what_the_run_takes(method: str, options: dict[str, Any], tiny: Any, tokenizer: Any, texts: Any) -> None:
    asked: dict[str, Any] = {**sets(texts), "method": method}
    prepared = prepare(tiny(), tokenizer, Request(**asked, options={"epochs": 2, **options}))
    planned = prepared.method.plan(tiny(), prepared.inputs)
    result = unlearn(tiny(), tokenizer, **asked, epochs=2, **options)
    assert planned.gradient_evaluations == result.cost.gradient_evaluations
    assert f"{len(result.history)} steps" in planned.detail
    blind = prepare(tiny(), None, Request(**asked, options={"epochs": 2, **options}, max_length=64))
    assert blind.method.plan(tiny(), blind.inputs).gradient_evaluations == planned.gradient_evaluations


@pytest.mark.parametrize("method", NAMES)
def test_it_stops_at_the_goal(method: str, memorised: Any, tokenizer: Any, texts: Any) -> None:
    options: dict[str, dict[str, Any]] = {
        "wga": {"learning_rate": 3e-3, "retain_weight": 0.1},
        "undial": {"learning_rate": 1e-2},
        "dpo": {"learning_rate": 3e-3, "retain_weight": 0.1, "beta": 0.01},
        "rmu": {"learning_rate": 1e-2, "retain_weight": 1.0, "layer": 1},
    }
    given: dict[str, Any] = {**sets(texts), "target_loss": 3.0, "method": method}
    result = unlearn(memorised, tokenizer, **given, stop="calibrate", epochs=200, retain_limit=None, **options[method])
    before, after = (text_losses(model, tokenizer, texts[FORGET]).double().mean() for model in (memorised, result.model))
    assert abs(after - 3.0) <= 0.05 * (3.0 - before)
    assert not any(warning.startswith("forgetting_incomplete") for warning in result.warnings)


def test_each_has_its_source() -> None:
    assert all("arXiv" in METHODS[name].source for name in NAMES)
