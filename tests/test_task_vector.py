"""Task vectors against training written out: what is taken away, how much of it, and what stays as it was."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn_lib import TrainingConfig, load_model, save_model, text_losses, train, unlearn
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.methods import choose
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import prepare

FORGET, RETAIN, UNSEEN = slice(0, 5), slice(5, 24), slice(24, 40)
QUICK: dict[str, Any] = {"method": "task-vector", "epochs": 2, "learning_rate": 1e-3, "train_batch_size": 3}


def parameters(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters()}


def losses(model: Any, tokenizer: Any, rows: Any) -> float:
    return float(text_losses(model, tokenizer, rows).double().mean())


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_what_training_changes_is_taken_away(scale: float, tiny: Any, tokenizer: Any, texts: Any, fingerprint: Any) -> None:
    model = tiny()
    before, tuned = fingerprint(model), tiny()
    result = unlearn(model, tokenizer, forget=texts[FORGET], scale=scale, seed=3, **QUICK)
    steps = train(tuned, tokenizer, texts[FORGET], TrainingConfig(2, 1e-3, 3), seed=3)
    assert fingerprint(model) == before
    old, new, other = parameters(model), parameters(result.model), parameters(tuned)
    assert max(float((other[name] - old[name]).abs().max()) for name in old) > 1e-4  # there is something to take away
    for name, p in old.items():
        torch.testing.assert_close(new[name], p - scale * (other[name] - p), rtol=1e-12, atol=1e-14)
    assert [entry["train_loss"] for entry in result.history] == steps
    assert (result.cost.gradient_evaluations, result.details["scale"]) == (2 * 5, scale)
    squares = sum(float((scale * (other[name] - p)).square().sum()) for name, p in old.items())
    assert result.details["step_norm"] == pytest.approx(squares**0.5)


def test_at_zero_it_is_the_model_and_below_it_is_refused(tiny: Any, tokenizer: Any, texts: Any, fingerprint: Any) -> None:
    model = tiny()
    with torch.no_grad():
        next(model.parameters())[0, 0] = -0.0
    result = unlearn(model, tokenizer, forget=texts[FORGET], scale=0, **QUICK)
    assert fingerprint(result.model) == fingerprint(model)
    with pytest.raises(InputError, match=r"scale is -1\.0, which would add the task vector"):
        unlearn(model, tokenizer, forget=texts[FORGET], scale=-1, **QUICK)


def test_the_more_is_taken_away_the_less_is_known(memorised: Any, tokenizer: Any, texts: Any) -> None:
    arguments: dict[str, Any] = {"forget": texts[FORGET], "method": "task-vector", "learning_rate": 1e-3}
    found = [losses(memorised, tokenizer, texts[FORGET])]
    for scale in (1.0, 2.0, 4.0):
        model = unlearn(memorised, tokenizer, scale=scale, **arguments).model
        found.append(losses(model, tokenizer, texts[FORGET]))
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.1


def test_the_scale_at_which_the_forget_loss_reaches_its_goal(
    memorised: Any, tokenizer: Any, texts: Any, tmp_path: Path
) -> None:
    sets = {"forget": texts[FORGET], "retain": texts[RETAIN], "holdout": texts[UNSEEN]}
    options: dict[str, Any] = {"method": "task-vector", "learning_rate": 1e-3, "retain_limit": None}
    result = unlearn(memorised, tokenizer, **sets, **options)
    before, after = (losses(model, tokenizer, texts[FORGET]) for model in (memorised, result.model))
    goal = result.details["goal"]
    assert abs(after - goal) <= 0.05 * (goal - before)
    assert result.cost.gradient_evaluations == 5 * 5  # the search for the scale takes none
    again = unlearn(memorised, tokenizer, **sets, **options, scale=result.details["scale"])
    assert losses(again.model, tokenizer, texts[FORGET]) == pytest.approx(after, rel=1e-6)
    save_model(result.model, tokenizer, tmp_path / "model")
    loaded, _ = load_model(tmp_path / "model", device="cpu")
    assert torch.equal(text_losses(loaded, tokenizer, texts[:3]), text_losses(result.model, tokenizer, texts[:3]))


def test_the_limit_on_the_retain_loss_binds(memorised: Any, tokenizer: Any, texts: Any) -> None:
    sets = {"forget": texts[FORGET], "retain": texts[RETAIN], "holdout": texts[UNSEEN]}
    result = unlearn(memorised, tokenizer, **sets, method="task-vector", learning_rate=1e-3, retain_limit=0.02)
    assert any("the limit on the retain loss (0.02 times" in warning for warning in result.warnings)
    rise = [
        losses(result.model, tokenizer, texts[part]) - losses(memorised, tokenizer, texts[part]) for part in (RETAIN, FORGET)
    ]
    assert rise[0] <= 0.02 * rise[1] + 1e-5
    assert result.details["checked_loss"]["standard_error"] == 0.0  # it sees none of them, so all are checked


def test_where_the_forget_loss_is_high_already_nothing_is_trained(memorised: Any, tokenizer: Any, texts: Any) -> None:
    options: dict[str, Any] = {"method": "task-vector", "target_loss": 1e-3, "retain_limit": None}
    result = unlearn(memorised, tokenizer, forget=texts[FORGET], **options)
    assert result.warnings[0].startswith("nothing was done")
    assert result.cost.gradient_evaluations == 0


def test_the_copy_is_trained_with_dropout_from_the_seed(tiny: Any, tokenizer: Any, texts: Any, fingerprint: Any) -> None:
    def found(seed: int) -> str:
        model = tiny()
        model.config.dropout = 0.3
        for layer in model.model.decoder.layers:
            layer.dropout = 0.3
        return str(fingerprint(unlearn(model, tokenizer, forget=texts[FORGET], scale=1.0, seed=seed, **QUICK).model))

    assert found(1) == found(1) != found(2)


def test_the_plan_is_what_is_taken(tiny: Any, tokenizer: Any, texts: Any) -> None:
    model = tiny()
    cases: list[dict[str, Any]] = [{"scale": 1.0, "epochs": 3}, {"epochs": 0.4, "target_loss": 9.0, "retain_limit": None}]
    for options in cases:
        request = Request(forget=texts[FORGET], method="task-vector", options=options)
        prepared = prepare(model, tokenizer, request)
        needs = prepared.method.plan(model, prepared.inputs)
        taken = prepared.method.run(copy.deepcopy(model), prepared.inputs).gradient_evaluations
        assert needs.gradient_evaluations == taken == options["epochs"] * 5
        assert ("find the scale" in str(needs)) == ("scale" not in options)


def test_what_it_needs() -> None:
    assert choose("task-vector", {"scale": 1.0}, []).required() == ()
    with pytest.raises(InputError, match="needs holdout"):
        choose("task-vector", {}, ["retain"])
    with pytest.raises(InputError, match="needs retain"):
        choose("task-vector", {}, ["holdout"])
    with pytest.raises(InputError, match="option scale of task-vector is 'much'"):
        choose("task-vector", {"scale": "much"}, ["holdout", "retain"])


def test_a_scale_that_is_too_large_is_refused(tiny: Any, tokenizer: Any, texts: Any) -> None:
    with pytest.raises(NumericsError, match="lower scale= or learning_rate="):
        unlearn(tiny(dtype=torch.float32), tokenizer, forget=texts[FORGET], scale=1e30, **QUICK)
