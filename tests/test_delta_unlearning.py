"""Delta-unlearning: the loss on summed logits against hand-written steps, what the large model is asked, and refusals."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from unlearn_lib import load_model, save_model, text_losses, unlearn
from unlearn_lib.command.cli import main
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.precision import KeepFloat64
from unlearn_lib.data.batches import collate, encode
from unlearn_lib.errors import InputError
from unlearn_lib.methods import Inputs, choose
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import carry_out, prepare

FORGET, RETAIN = slice(0, 4), slice(4, 8)
OBJECTIVES = ("ascent", "gradient-difference", "kl", "npo")


@pytest.fixture
def small(tiny: Any, tokenizer: Any, tmp_path: Path) -> str:
    """A folder with a small model in float64."""
    folder = tmp_path / "small"
    save_model(tiny(seed=5), tokenizer, folder)
    return str(folder)


@pytest.fixture
def rows(texts: list[dict[str, str]]) -> dict[str, Any]:
    return {"forget": texts[FORGET], "retain": texts[RETAIN]}


def logits_of(model: Any, text: dict[str, str], tokenizer: Any) -> Tensor:
    batch = collate(encode([text], tokenizer, 256).examples)
    found: Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[0, :-1]
    return found


def by_hand(objective: str, large: Any, small: Any, rows: Any, tokenizer: Any, scale: float, steps: int, rate: float) -> Any:
    """Plain gradient descent on the formulas of the method's page, one text at a time."""
    now, gamma, alpha, beta = copy.deepcopy(small), 0.5, 2.0, 0.3

    def of(text: dict[str, str]) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of the large model and of the sum, and the tokens."""
        with torch.no_grad():
            known, before = logits_of(large, text, tokenizer), logits_of(small, text, tokenizer)
        summed = known + scale * (logits_of(now, text, tokenizer) - before)
        ids = torch.tensor(encode([text], tokenizer, 256).examples[0].input_ids[1:])
        return known.log_softmax(-1), summed.log_softmax(-1), ids

    def nll(log_p: Tensor, ids: Tensor) -> Tensor:
        return -log_p[torch.arange(len(ids)), ids]

    for _ in range(steps):
        forget, retain = [of(text) for text in rows["forget"]], [of(text) for text in rows["retain"]]
        loss = torch.zeros(())
        for known, summed, ids in forget:
            if objective == "npo":
                ratio = nll(known, ids).sum() - nll(summed, ids).sum()  # log of p_theta over p_M
                loss = loss + gamma * 2 / beta * torch.log1p(torch.exp(beta * ratio)) / 4
            else:
                loss = loss - (1 if objective == "ascent" else gamma) * nll(summed, ids).mean() / 4
        for known, summed, ids in retain if objective != "ascent" else []:
            kept = (known.exp() * (known - summed)).sum(-1) if objective == "kl" else nll(summed, ids)
            loss = loss + alpha * kept.mean() / 4
        params = list(now.parameters())
        with torch.no_grad():
            for p, g in zip(params, torch.autograd.grad(loss, params), strict=True):
                p -= rate * g
    return now


@pytest.mark.parametrize("scale", [1.0, 0.7])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_steps_against_hand_written_autograd(
    objective: str, scale: float, tiny: Any, tokenizer: Any, rows: Any, small: str
) -> None:
    large, start = tiny("neo"), load_model(small, dtype="float64")[0]
    with KeepFloat64():
        expected = by_hand(objective, large, start, rows, tokenizer, scale, 2, 1e-2)
    options = {"optimizer": "sgd", "learning_rate": 1e-2, "epochs": 2, "forget_batch_size": None, "retain_batch_size": 4}
    weights = {"forget_weight": 0.5, "retain_weight": 2.0, "beta": 0.3, "scale": scale}
    result = unlearn(
        large, tokenizer, **rows, method="delta-unlearning", small=small, objective=objective, **options, **weights
    )
    before, found = dict(start.named_parameters()), dict(result.model.small.named_parameters())
    most = max(float((p - before[name]).detach().abs().max()) for name, p in expected.named_parameters())
    assert most > 1e-4
    for name, p in expected.named_parameters():
        torch.testing.assert_close(found[name], p, rtol=0, atol=1e-7 * most)
    for name, p in result.model.reference.named_parameters():
        assert torch.equal(p, before[name])


@pytest.mark.parametrize(
    ("objective", "method", "options"),
    [
        ("ascent", "gradient-ascent", {"step": 1e-3, "optimizer": "adamw", "epochs": 3}),
        ("gradient-difference", "gradient-difference", {"learning_rate": 1e-3, "epochs": 3}),
        ("kl", "gradient-difference", {"learning_rate": 1e-3, "epochs": 3, "retain_loss": "kl"}),
        ("npo", "npo", {"learning_rate": 1e-3, "epochs": 3}),
    ],
)
def test_with_the_large_model_as_the_small_one_it_is_direct_descent(
    objective: str, method: str, options: dict[str, Any], tiny: Any, tokenizer: Any, rows: Any, tmp_path: Path
) -> None:
    """l_M + (l_theta - l_M) = l_theta, so that the small model moves as the large one would."""
    model = tiny()
    save_model(model, tokenizer, tmp_path / "same")
    own: dict[str, Any] = {"small": str(tmp_path / "same"), "objective": objective, "learning_rate": 1e-3, "epochs": 3}
    found = unlearn(model, tokenizer, **rows, method="delta-unlearning", forget_batch_size=4, **own)
    direct = unlearn(model, tokenizer, **rows, method=method, forget_batch_size=4, **options)
    for part in ("forget", "retain"):
        torch.testing.assert_close(found.losses_after[part], direct.losses_after[part], rtol=1e-6, atol=1e-6)
    assert found.losses_after["forget"].mean() > found.losses_before["forget"].mean() + 0.1


class Forbidden(torch.autograd.Function):
    """A function without a derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise AssertionError("a gradient of the large model was asked for")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_large_model_is_asked_once_for_every_text_and_never_for_a_gradient(
    objective: str, tiny: Any, tokenizer: Any, rows: Any, small: str
) -> None:
    model, asked = tiny("neo"), []

    def ask(_: Any, args: Any, kwargs: Any) -> None:
        assert not torch.is_grad_enabled()
        asked.append(len(kwargs["input_ids"]))

    model.register_forward_pre_hook(ask, with_kwargs=True)
    model.lm_head.register_forward_hook(lambda _, __, out: Forbidden.apply(out))
    examples = {name: encode(texts, tokenizer, 256).examples for name, texts in rows.items()}
    inputs = Inputs(examples["forget"], examples["retain"], None, 0, tokenizer=tokenizer)
    options = {"small": small, "objective": objective, "epochs": 3, "forget_batch_size": 2, "retain_batch_size": 3}
    outcome = choose("delta-unlearning", options, ["retain"]).run(model, inputs)
    steps, retained = 6, 0 if objective == "ascent" else 3
    assert sum(asked) == inputs.passes.forward == outcome.gradient_evaluations == steps * (2 + retained)
    assert outcome.model.large is model
    assert all(p.grad is None and not p.requires_grad for p in (*model.parameters(), *outcome.model.reference.parameters()))
    assert all(p.requires_grad for p in outcome.model.small.parameters())


def test_it_stops_where_the_summed_model_has_the_goal(memorised: Any, tokenizer: Any, texts: Any) -> None:
    sets = {"forget": texts[:5], "retain": texts[5:24], "holdout": texts[24:]}
    options: dict[str, Any] = {"small": "nano/opt-s", "learning_rate": 3e-3, "stop": "calibrate", "epochs": 100}
    result = unlearn(memorised, tokenizer, **sets, method="delta-unlearning", retain_limit=None, **options)
    goal, before = result.details["goal"], float(result.losses_before["forget"].mean())
    after = float(text_losses(result.model, tokenizer, texts[:5]).double().mean())
    assert goal - before > 1.0
    assert abs(after - goal) <= 0.05 * (goal - before)
    assert not any("forgetting_incomplete" in warning for warning in result.warnings)


def test_the_limit_on_the_retain_loss_holds_for_the_sum(memorised: Any, tokenizer: Any, texts: Any) -> None:
    sets = {"forget": texts[:5], "retain": texts[5:24], "holdout": texts[24:]}
    options: dict[str, Any] = {"small": "nano/opt-s", "objective": "ascent", "learning_rate": 3e-3, "stop": "calibrate"}
    result = unlearn(memorised, tokenizer, **sets, method="delta-unlearning", retain_limit=0.4, epochs=20, **options)
    rise = {name: float((result.losses_after[name] - result.losses_before[name]).mean()) for name in ("forget", "retain")}
    assert any("binds" in warning for warning in result.warnings)
    assert rise["forget"] > 0.1
    assert rise["retain"] <= 0.4 * rise["forget"] + 1e-5


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_plan_agrees_with_what_is_taken(objective: str, tokenizer: Any, texts: Any) -> None:
    model = load_model("nano/opt-m", device="cpu")[0]
    options = {"small": "nano/opt-s", "objective": objective, "epochs": 2}
    request = Request(forget=texts[:8], retain=texts[8:], method="delta-unlearning", options=options)
    prepared = prepare(model, tokenizer, request)
    planned = prepared.method.plan(model, prepared.inputs)
    with Meter() as meter:
        cost = carry_out(prepared, model, tokenizer, sets={"forget": prepared.inputs.forget}).cost
    assert planned.gradient_evaluations == cost.gradient_evaluations
    assert planned.peak_memory_bytes == pytest.approx(meter.peak, rel=0.25)
    assert "2 steps with adamw of nano/opt-s" in str(planned)


def test_a_plan_without_a_tokenizer(tokenizer: Any, texts: Any) -> None:
    model = load_model("nano/opt-m", device="cpu")[0]
    options = {"small": "nano/opt-s", "epochs": 1}
    prepared = prepare(model, None, Request(texts[:2], texts[8:], method="delta-unlearning", max_length=20, options=options))
    assert prepared.method.plan(model, prepared.inputs).gradient_evaluations == 2 + 8
    assert all(p.requires_grad for p in model.parameters())


def renamed(folder: Path, tokenizer: Any) -> None:
    """Two tokens of a saved tokenizer change places."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    one, two = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    path.write_text(json.dumps(content))


def test_another_vocabulary_is_refused(tiny: Any, tokenizer: Any, rows: Any, small: str) -> None:
    renamed(Path(small), tokenizer)
    prepared = prepare(tiny(), tokenizer, Request(**rows, method="delta-unlearning", options={"small": small}))
    with pytest.raises(InputError, match="tokenizers of the small and the large model differ in 2 tokens"):
        unlearn(tiny(), tokenizer, **rows, method="delta-unlearning", small=small)
    with pytest.raises(InputError, match="differ in 2 tokens"):
        prepared.method.plan(tiny(), prepared.inputs)


def test_a_vocabulary_of_another_size_is_refused(tiny: Any, tokenizer: Any, rows: Any, small: str) -> None:
    model = tiny()
    model.resize_token_embeddings(1030, mean_resizing=False)
    with pytest.raises(InputError, match="the small model has a vocabulary of 1024 tokens and the large one of 1030"):
        unlearn(model, tokenizer, **rows, method="delta-unlearning", small=small)


def test_texts_that_are_too_long_for_the_small_model_are_refused(tiny: Any, tokenizer: Any, rows: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(tiny().config)
    config.max_position_embeddings = 8
    save_model(AutoModelForCausalLM.from_config(config), tokenizer, tmp_path / "short")
    with pytest.raises(InputError, match=r"takes at most 8 tokens, and the longest text has \d+; give max_length=8"):
        unlearn(tiny(), tokenizer, **rows, method="delta-unlearning", small=str(tmp_path / "short"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "learns an offset with a small model; give its name or folder with small="),
        ({"small": ""}, "give its name or folder with small="),
        ({"small": "nano/opt-xl"}, "nano/opt-s"),
        ({"small": "nano/opt-s", "scale": 0}, "option scale of delta-unlearning is 0"),
        ({"small": "nano/opt-s", "objective": "simnpo"}, "option objective of delta-unlearning is 'simnpo'"),
    ],
)
def test_refusals(options: dict[str, Any], message: str, tiny: Any, tokenizer: Any, rows: Any) -> None:
    with pytest.raises(InputError, match=message):
        unlearn(tiny(), tokenizer, **rows, method="delta-unlearning", **options)


def test_only_ascent_needs_no_retained_texts(tiny: Any, tokenizer: Any, rows: Any, small: str) -> None:
    for objective in OBJECTIVES[1:]:
        with pytest.raises(InputError, match="needs retain"):
            unlearn(tiny(), tokenizer, forget=rows["forget"], method="delta-unlearning", small=small, objective=objective)
    result = unlearn(tiny(), tokenizer, forget=rows["forget"], method="delta-unlearning", small=small, objective="ascent")
    assert result.cost.gradient_evaluations == 5 * 4


def test_the_command_writes_a_folder_that_it_takes_again(tokenizer: Any, texts: Any, tmp_path: Path) -> None:
    for name, part in {"forget": texts[:3], "retain": texts[4:10]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    sets = [word for name in ("forget", "retain") for word in (f"--{name}", str(tmp_path / f"{name}.jsonl"))]
    small = ["--method", "delta-unlearning", "--set", "small=nano/opt-s", "--set", "learning_rate=1e-3"]
    for number, model in enumerate(["nano/opt-m", str(tmp_path / "0" / "model")]):
        done = CliRunner().invoke(main, ["run", "--model", model, *sets, *small, "--out", str(tmp_path / str(number))])
        assert done.exit_code == 0, done.output
        report = json.loads((tmp_path / str(number) / "report.json").read_text())
        found = load_model(tmp_path / str(number) / "model", device="cpu")[0]
        loss = float(text_losses(found, tokenizer, texts[:3]).double().mean())
        assert loss == pytest.approx(report["losses"]["forget"]["after"], rel=1e-5)
        assert report["losses"]["forget"]["after"] > report["losses"]["forget"]["before"] + 0.1
    assert report["model"]["trainable"] == sum(p.numel() for p in found.large.small.parameters())
