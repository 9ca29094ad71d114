"""Plans for several cards: what each takes, whether it fits, and the setting that would."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from unlearn_lib.command.cards import SPARE, Cards, fitting, settings
from unlearn_lib.curvature import KFAC, EmpiricalFisher, Kronecker, plan
from unlearn_lib.curvature.kfac_cost import kfac_cost
from unlearn_lib.curvature.rehearsal import Rehearsal
from unlearn_lib.curvature.solvers.woodbury import PASSES
from unlearn_lib.errors import InputError
from unlearn_lib.methods.fisher_removal import FisherRemoval
from unlearn_lib.methods.plan import model_bytes
from unlearn_lib.ranks import Imagined, planned_for, ranks
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import Prepared, prepare


@pytest.fixture
def model(tiny: Any) -> Any:
    return tiny("opt", torch.float32)


PLANS: dict[tuple[Any, ...], Any] = {}


@pytest.fixture(autouse=True)
def planned_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan takes seconds and depends on these four alone: the tests look at the same ones again and again."""
    plan_anew = FisherRemoval.plan

    def plan(self: FisherRemoval, model: Any, inputs: Any) -> Any:
        key = (repr(self), inputs.batch_size, ranks().size, ranks().sharded)
        if key not in PLANS:
            PLANS[key] = plan_anew(self, model, inputs)
        return PLANS[key]

    monkeypatch.setattr(FisherRemoval, "plan", plan)


@pytest.fixture
def prepared(model: Any, tokenizer: Any, texts: list[dict[str, str]]) -> Prepared:
    options = {"solver": "woodbury", "step": 0.1, "steps": 1}
    request = Request(texts[:4], texts[4:20], None, method="fisher-removal", batch_size=4, options=options)
    return prepare(model, tokenizer, request)


def needed(model: Any, prepared: Prepared, number: int) -> float:
    """GiB of each of so many cards, as `fitting` counts them."""
    with planned_for(number):
        return SPARE * (model_bytes(model) + prepared.method.plan(model, prepared.inputs).peak_memory_bytes) / 2**30


def test_each_of_several_cards_keeps_its_share_of_the_factors(model: Any, prepared: Prepared) -> None:
    F = EmpiricalFisher(model, prepared.inputs.batches(prepared.inputs.retain, model.device))
    alone = Rehearsal(F).capture
    with planned_for(4):
        shared = EmpiricalFisher(F.model, F.batches)
        assert shared.sequences == F.sequences == 16
        one_of_four = Rehearsal(shared).capture
    longest = max(batch["input_ids"].shape[1] for batch in F.batches) / sum(batch["input_ids"].numel() for batch in F.batches)
    assert sum(one_of_four.kept.values()) == pytest.approx(sum(alone.kept.values()) / 4, rel=5 * longest)
    assert (one_of_four.capture_flops, one_of_four.product_flops) == (alone.capture_flops, alone.product_flops)


def test_each_of_several_cards_keeps_its_share_of_kfac(model: Any, prepared: Prepared) -> None:
    batches = prepared.inputs.batches(prepared.inputs.retain, model.device)
    K = KFAC(model, batches, correction=False)
    with planned_for(2):
        half = KFAC(model, batches, correction=False)
        assert kfac_cost(half, Rehearsal(half)).kept == pytest.approx(kfac_cost(K, Rehearsal(K)).kept / 2, abs=1)
        assert plan(half, Kronecker(1.0)).gradient_evaluations == plan(K, Kronecker(1.0)).gradient_evaluations


def test_what_fits_is_said_to(model: Any, prepared: Prepared) -> None:
    one, four = (needed(model, prepared, number) for number in (1, 4))
    assert four < one
    assert fitting(model, prepared, Cards(1, 1.01 * one)).startswith("fits on 1 card of")
    between = (one + four) / 2
    assert fitting(model, prepared, Cards(4, between)).startswith("fits on 4 cards of")
    with pytest.raises(InputError, match="does not fit on 1 card"):
        fitting(model, prepared, Cards(1, between))


def test_the_setting_that_would_fit_is_named_and_does(model: Any, prepared: Prepared) -> None:
    found = {setting: needed(model, tried, 1) for setting, tried in settings(prepared)}
    assert list(found)[:3] == ["", "--batch-size 2", "--batch-size 1"]
    assert "--batch-size 1 --set passes=4" in found
    limit = (found["--batch-size 1"] + found["--batch-size 1 --set passes=16"]) / 2
    first = next(setting for setting, gib in found.items() if gib <= limit)
    assert "passes" in first
    with pytest.raises(InputError, match=f"what fits: {first}, with about"):
        fitting(model, prepared, Cards(1, limit))


def test_where_nothing_fits_the_least_is_said(model: Any, prepared: Prepared) -> None:
    with pytest.raises(InputError, match=r"smaller batches and more passes about .* take larger cards"):
        fitting(model, prepared, Cards(1, 1e-9))
    few = replace(
        prepared,
        method=prepared.method.model_copy(update={"passes": PASSES[-1]}),
        inputs=replace(prepared.inputs, batch_size=1),
    )
    assert [setting for setting, _ in settings(few)] == [""]


def test_the_number_of_cards_is_read() -> None:
    assert Cards.parse("4x80") == Cards(4, 80.0)
    assert str(Cards.parse("1X23.5")) == "1 card of 23.5 GiB"
    for wrong in ("", "4", "x80", "4x", "0x80", "4x0", "4x-1", "4xinf", "4xnan", "four x 80"):
        with pytest.raises(InputError, match="NUMBERxGIB"):
            Cards.parse(wrong)


def test_imagined_processes_send_nothing() -> None:
    with planned_for(3) as found:
        assert ranks() == found == Imagined(0, 3)
        assert found.told("x") == ["x"] * 3
