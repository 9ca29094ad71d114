"""EUL against its loss written out again, its limits, what it leaves alone, and its plan."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from test_first_order import FORGET, RETAIN
from test_shapes import SETS, outline
from torch import Tensor

from unlearn_lib import load_model, save_model, text_losses, unlearn
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.precision import KeepFloat64
from unlearn_lib.data.batches import collate, encode
from unlearn_lib.errors import InputError
from unlearn_lib.methods import EUL
from unlearn_lib.models.bottlenecks import is_part
from unlearn_lib.models.shapes import load_for_plan
from unlearn_lib.models.unlearning_layers import base_weights, layer_weights, without_layers
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import carry_out, prepare

STEP: dict[str, Any] = {
    "method": "eul", "optimizer": "sgd", "learning_rate": 0.5, "epochs": 1, "forget_batch_size": None, "retain_batch_size": 4,
    "bottleneck": 5, "activation": "gelu",
}  # fmt: skip


def after(epochs: int, tiny: Any, tokenizer: Any, texts: Any, **options: Any) -> Any:
    sets = {"forget": texts[FORGET], "retain": texts[RETAIN]}
    return unlearn(tiny(), tokenizer, **sets, **{**STEP, **options, "epochs": epochs}).model


def log_probs(model: Any, row: dict[str, str], tokenizer: Any) -> tuple[Tensor, Tensor]:
    """`([T - 1, V], [T - 1])`: what is said of every next token of a text, alone in its batch; and which tokens come."""
    batch = collate(encode([row], tokenizer, 256).examples)
    with KeepFloat64():
        found = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return found[0, :-1].log_softmax(-1), batch["labels"][0, 1:]


def terms(original: Any, model: Any, rows: Any, tokenizer: Any, *, reverse: bool = False) -> tuple[list[Tensor], list[Tensor]]:
    """For every text its divergence and its loss, by the formulas."""
    kl, nll = [], []
    for row in rows:
        (p, labels), (q, _) = log_probs(original, row, tokenizer), log_probs(model, row, tokenizer)
        first, second = (q, p) if reverse else (p, q)
        kl.append((first.exp() * (first - second)).sum(-1).mean())
        nll.append(-q[torch.arange(len(labels)), labels].mean())
    return kl, nll


def mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


@pytest.mark.parametrize(
    ("options", "alpha", "lam", "gamma"),
    [
        ({}, 0.8, 1.0, 0.2),
        ({"retain_weight": 3.0, "task_weight": 0.5, "ascent_weight": 2.0}, 3.0, 0.5, 2.0),
        ({"divergence": "reverse", "ascent_weight": 1.0}, 0.8, 1.0, 1.0),
    ],
)
def test_a_step_away_from_the_original_follows_the_loss(
    options: dict[str, Any], alpha: float, lam: float, gamma: float, tiny: Any, tokenizer: Any, texts: Any
) -> None:
    """The first step moves the last projections alone (all else has no gradient at zero), the third everything."""
    original, start, reached = tiny(), *(after(n, tiny, tokenizer, texts, **options) for n in (2, 3))
    names = [name for name, _ in start.named_parameters() if is_part(name)]

    def expected(*, reverse: bool) -> list[Tensor]:
        (kl, nll), (forget_kl, forget_nll) = (
            terms(original, start, texts[part], tokenizer, reverse=reverse) for part in (RETAIN, FORGET)
        )
        loss = alpha * mean(kl) + lam * mean(nll) - mean(forget_kl) - gamma * mean(forget_nll)
        with KeepFloat64():
            return list(torch.autograd.grad(loss, [start.get_parameter(name) for name in names]))

    wanted = expected(reverse="divergence" in options)
    largest = max(float(g.abs().max()) for g in wanted)
    for name, g in zip(names, wanted, strict=True):
        moved = (start.get_parameter(name) - reached.get_parameter(name)).detach() / STEP["learning_rate"]
        torch.testing.assert_close(moved, g, rtol=1e-6, atol=1e-6 * largest)
    other = expected(reverse="divergence" not in options)
    gap = max(float((g - h).abs().max()) for g, h in zip(wanted, other, strict=True))
    assert gap > 1e-4 * largest  # the other direction would have been seen


def test_past_the_cap_a_text_counts_no_more(tiny: Any, tokenizer: Any, texts: Any) -> None:
    """Alone with the terms of D-, the model stops where the first step leads to, as every text has left the original by then."""
    alone: dict[str, Any] = {"retain_weight": 0.0, "task_weight": 0.0}
    one, free = (after(n, tiny, tokenizer, texts, **alone) for n in (1, 5))
    capped, loose = (after(5, tiny, tokenizer, texts, **alone, cap=cap) for cap in (1e-12, 1e6))
    for name, p in layer_weights(one).items():
        assert torch.equal(layer_weights(capped)[name], p)
        assert torch.equal(layer_weights(loose)[name], layer_weights(free)[name])
    assert any(not torch.equal(layer_weights(free)[name], p) for name, p in layer_weights(one).items())


def test_the_model_beneath_is_untouched_and_the_layers_forget(memorised: Any, tokenizer: Any, texts: Any) -> None:
    sets = {"forget": texts[:4], "retain": texts[4:24]}
    model = unlearn(memorised, tokenizer, **sets, method="eul", epochs=40, learning_rate=3e-3).model
    assert all(torch.equal(p, base_weights(memorised)[name]) for name, p in base_weights(model).items())
    assert all(p.requires_grad for p in model.parameters())  # as before
    forgot, kept = (
        float((text_losses(model, tokenizer, rows) - text_losses(memorised, tokenizer, rows)).mean()) for rows in sets.values()
    )
    assert forgot > 1.0
    assert kept < 0.2 * forgot
    torch.testing.assert_close(
        text_losses(without_layers(model), tokenizer, texts[:4]), text_losses(memorised, tokenizer, texts[:4])
    )


def test_calibrating_stops_at_the_goal(memorised: Any, tokenizer: Any, texts: Any) -> None:
    sets = {"forget": texts[:5], "retain": texts[5:24], "holdout": texts[24:]}
    result = unlearn(
        memorised, tokenizer, **sets, method="eul", stop="calibrate", epochs=100, retain_limit=None, learning_rate=5e-3
    )
    goal, start = result.details["goal"], float(text_losses(memorised, tokenizer, texts[:5]).mean())
    assert abs(float(text_losses(result.model, tokenizer, texts[:5]).mean()) - goal) <= 0.05 * (goal - start)
    assert all(torch.equal(p, base_weights(memorised)[name]) for name, p in base_weights(result.model).items())


def test_a_model_with_layers_gets_more_and_is_the_teacher(tiny: Any, tokenizer: Any, texts: Any, tmp_path: Path) -> None:
    first = after(3, tiny, tokenizer, texts)
    kept = {name: p.clone() for name, p in first.state_dict().items()}
    sets = {"forget": texts[8:12], "retain": texts[12:16]}
    second = unlearn(first, tokenizer, **sets, **STEP)
    with torch.no_grad():  # there is no divergence yet
        retain, forget = (mean(terms(first, first, rows, tokenizer)[1]) for rows in (sets["retain"], sets["forget"]))
    assert second.history[0]["loss"] == pytest.approx(float(retain - 0.2 * forget), rel=1e-6)
    found = second.model.state_dict()
    assert all(torch.equal(found[name], p) for name, p in kept.items())
    assert len(found) == len(kept) + len(layer_weights(first))
    assert len(first.stages) == 1
    save_model(second.model, tokenizer, tmp_path / "out")
    again, _ = load_model(tmp_path / "out", device="cpu", dtype="float64")
    assert again.stages == second.model.stages
    torch.testing.assert_close(text_losses(again, tokenizer, texts[:4]), text_losses(second.model, tokenizer, texts[:4]))


def test_in_place_it_is_the_same_without_a_copy(memorised: Any, tokenizer: Any, texts: Any, fingerprint: Any) -> None:
    request = Request(forget=texts[:3], retain=texts[3:9], method="eul", options={"epochs": 1})
    wanted = carry_out(prepare(memorised, tokenizer, request), memorised, tokenizer)
    own = copy.deepcopy(memorised)
    prepared = prepare(own, tokenizer, request)
    found = carry_out(prepared, own, tokenizer, losses_before=wanted.losses_before, in_place=True)
    assert found.model is own
    assert fingerprint(own) == fingerprint(wanted.model)


def test_the_plan_is_what_a_run_takes(memorised: Any, tokenizer: Any, texts: Any, fingerprint: Any) -> None:
    options: dict[str, Any] = {"epochs": 2, "forget_batch_size": 4, "retain_batch_size": 4}
    request = Request(forget=texts[:5], retain=texts[5:24], method="eul", options=options)
    prepared, before = prepare(memorised, tokenizer, request), fingerprint(memorised)
    planned = prepared.method.plan(memorised, prepared.inputs)
    assert fingerprint(memorised) == before
    assert all(p.requires_grad for p in memorised.parameters())
    result = carry_out(prepared, memorised, tokenizer)
    assert planned.gradient_evaluations == result.cost.gradient_evaluations
    assert result.cost.forward_evaluations == result.cost.gradient_evaluations  # the teacher's
    with Meter() as meter:
        prepared.method.run(copy.deepcopy(memorised), prepared.inputs)
    own = sum(p.numel() * p.element_size() for p in memorised.parameters())  # the copy itself, made before
    assert planned.peak_memory_bytes == pytest.approx(meter.peak + own, rel=0.2)


def test_the_plan_from_the_shape_is_that_of_the_model(tmp_path: Path, tokenizer: Any, texts: Any) -> None:
    found = load_for_plan(str(outline("nano/neo-s", tmp_path / "model", tokenizer)))
    needs = []
    for model in (load_model("nano/neo-s", device="cpu")[0], found.model):
        asked: dict[str, Any] = {key: texts[part] for key, part in SETS.items()}
        prepared = prepare(model, found.tokenizer, Request(**asked, method="eul", max_length=20))
        needs.append(prepared.method.plan(model, prepared.inputs))
    assert needs[0] == needs[1]


def test_what_has_no_blocks_is_refused(tokenizer: Any, texts: Any) -> None:
    from transformers import MambaConfig, MambaForCausalLM

    mamba = MambaForCausalLM(MambaConfig(vocab_size=1024, hidden_size=16, num_hidden_layers=1, state_size=4)).eval()
    with pytest.raises(InputError, match="MambaForCausalLM cannot be found"):
        unlearn(mamba, tokenizer, forget=texts[:2], retain=texts[2:4], method="eul")
    for option, value in (("bottleneck", 0), ("divergence", "both"), ("cap", 0.0), ("activation", "tanh")):
        with pytest.raises(InputError, match=f"option {option} of eul is"):
            EUL.from_options({option: value})
