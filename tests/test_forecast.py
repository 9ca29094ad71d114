"""What `unlearn run` says before its long part starts."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unlearn_lib.command import forecast
from unlearn_lib.errors import InputError
from unlearn_lib.methods.plan import MethodPlan
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import prepare

CPU = torch.device("cpu")
GIB = 2**30


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast.psutil, "virtual_memory", lambda: SimpleNamespace(available=4 * GIB, total=8 * GIB))


@pytest.mark.usefixtures("machine")
def test_memory_is_compared_with_what_the_machine_has(said: list[str]) -> None:
    forecast.check_memory(MethodPlan(1, 3 * GIB, "small"), CPU, said.append)
    assert said == []
    forecast.check_memory(MethodPlan(1, 6 * GIB, "K-FAC of 8 texts"), CPU, said.append)
    assert said[0].startswith(
        "note: about 6.0 GiB of memory beyond the model are needed (K-FAC of 8 texts), and 4.0 GiB are free on cpu"
    )
    with pytest.raises(InputError, match=r"about 10\.0 GiB .* has 8\.0 GiB in all; a smaller --batch-size"):
        forecast.check_memory(MethodPlan(1, 10 * GIB, "large"), CPU, said.append)


def test_minutes_are_said_where_it_takes_some(said: list[str]) -> None:
    forecast.say_minutes(MethodPlan(500, 0, ""), 300, 0.01, said.append)
    assert said == []
    forecast.say_minutes(MethodPlan(500, 0, ""), 300, 0.5, said.append)
    assert said == [
        "planned: at most 500 gradients of single texts, and 300 looks at losses for the report, which take about 5 minutes at 0.5 s a "
        "gradient"
    ]


def test_a_plan_that_is_dearer_than_retraining_is_pointed_out(
    memorised: Any, tokenizer: Any, texts: list[dict[str, str]], said: list[str]
) -> None:
    asked: dict[str, Any] = {"forget": texts[:4], "retain": texts[4:12], "method": "gradient-difference"}
    for epochs in (2, 40):  # 4 + 8 texts in a step of one pass
        options = {"epochs": epochs, "forget_batch_size": 4, "retain_batch_size": 8}
        forecast.forecast(memorised, prepare(memorised, tokenizer, Request(**asked, options=options)), 0, said.append)
    assert said == [
        "note: the plan takes up to 480 gradients of single texts, and retraining on the retained texts for 5 epochs would take 40; fewer "
        "steps, or budget= where the method has it, take less"
    ]


def test_a_plan_is_compared_with_the_retraining_that_its_budget_is_a_share_of(
    memorised: Any, tokenizer: Any, texts: list[dict[str, str]], said: list[str]
) -> None:
    asked: dict[str, Any] = {"forget": texts[:4], "retain": texts[4:24], "method": "constrained-newton"}
    options = {"budget": 0.9, "retraining_epochs": 40, "target_loss": 3.0}  # more than five epochs, and less than forty
    prepared = prepare(memorised, tokenizer, Request(**asked, options=options))
    assert prepared.method.plan(memorised, prepared.inputs).gradient_evaluations > 5 * 20
    forecast.forecast(memorised, prepared, 0, said.append)
    assert not [line for line in said if line.startswith("note:")]


def test_a_gradient_is_timed(memorised: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    prepared = prepare(memorised, tokenizer, Request(forget=texts[:4], method="gradient-ascent"))
    before = {name: p.clone() for name, p in memorised.named_parameters()}
    assert 0 < forecast.seconds_of_a_gradient(memorised, prepared) < 10
    assert all(torch.equal(p, before[name]) for name, p in memorised.named_parameters())
    assert all(p.grad is None for p in memorised.parameters())
