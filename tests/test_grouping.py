"""How texts are put together for a pass, and that a result does not depend on it; working on the model itself in place of a copy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unlearn_lib import unlearn
from unlearn_lib.data.batches import Grouping, make_batches
from unlearn_lib.data.examples import Example
from unlearn_lib.errors import InputError
from unlearn_lib.methods.base import Inputs
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import carry_out, prepare


def of_lengths(*lengths: int) -> list[Example]:
    return [Example((number,) * length, (number,) * length) for number, length in enumerate(lengths)]


def sizes(grouping: Grouping, *lengths: int) -> list[int]:
    return [len(group) for group in grouping.groups(of_lengths(*lengths))]


def test_both_limits_by_hand() -> None:
    assert sizes(Grouping(3), 5, 5, 5, 5) == [3, 1]
    # three of length 4 are 12 positions; with the one of length 5 two would be 10 and three 15
    assert sizes(Grouping(8, 12), 4, 4, 4, 5, 4, 4) == [3, 2, 1]
    # padding counts: a short text beside a long one takes as much
    assert sizes(Grouping(8, 12), 10, 1, 1, 1) == [1, 3]
    assert sizes(Grouping(8, 3), 10, 1, 9, 2, 1) == [1, 1, 1, 1, 1]
    assert sizes(Grouping(2, 100)) == []


@given(st.lists(st.integers(1, 20), max_size=30), st.integers(1, 6), st.none() | st.integers(1, 60))
def test_all_texts_are_there_in_order_within_the_limits(lengths: list[int], size: int, tokens: int | None) -> None:
    examples = of_lengths(*lengths)
    groups = list(Grouping(size, tokens).groups(examples))
    assert [example for group in groups for example in group] == examples
    for group, batch in zip(groups, make_batches(examples, Grouping(size, tokens)), strict=True):
        assert 1 <= len(group) <= size
        assert len(group) == 1 or tokens is None or batch["input_ids"].numel() <= tokens


@pytest.mark.parametrize(("size", "tokens", "named"), [(0, None, "batch_size"), (4, 0, "batch_tokens"), (-1, 5, "batch_size")])
def test_a_limit_below_one_is_refused(size: int, tokens: int | None, named: str) -> None:
    with pytest.raises(InputError, match=f"{named} must be at least 1"):
        Grouping(size, tokens)


def test_the_result_does_not_depend_on_the_limit(memorised: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    asked = {"forget": texts[:3], "retain": texts[3:9], "method": "fisher-removal", "terms": 4, "steps": 1, "step": 0.1}
    whole = unlearn(memorised, tokenizer, **asked)
    parts = unlearn(memorised, tokenizer, **asked, batch_tokens=60)
    assert parts.config["batch_tokens"] == 60
    start, one, other = (
        torch.nn.utils.parameters_to_vector(model.parameters()) for model in (memorised, whole.model, parts.model)
    )
    assert (other - one).norm() < 1e-3 * (one - start).norm()  # rounding, which the inverse magnifies


def test_the_limit_reaches_the_method(memorised: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    request = Request(forget=texts[:3], retain=texts[3:9], method="npo", batch_tokens=60)
    inputs: Inputs = prepare(memorised, tokenizer, request).inputs
    batches = inputs.batches(inputs.retain, memorised.device)
    assert all(len(batch["labels"]) == 1 or batch["input_ids"].numel() <= 60 for batch in batches)
    assert len(batches) > 1


def test_in_place_is_the_same_without_a_copy(
    memorised: Any, tokenizer: Any, texts: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(forget=texts[:3], retain=texts[3:9], method="npo", options={"epochs": 1})
    wanted = carry_out(prepare(memorised, tokenizer, request), memorised, tokenizer)
    own = copy.deepcopy(memorised).train()
    frozen = next(name for name, _ in own.named_parameters() if "layernorm" in name.lower() or "layer_norm" in name)
    own.get_parameter(frozen).requires_grad_(False)
    wanted_frozen = carry_out(prepare(own, tokenizer, request), own, tokenizer)
    prepared = prepare(own, tokenizer, request)
    copies = counted(monkeypatch)
    found = carry_out(prepared, own, tokenizer, losses_before=wanted.losses_before, in_place=True)
    assert found.model is own
    assert copies() == 1  # NPO's own reference
    assert own.training
    assert not own.get_parameter(frozen).requires_grad
    for name, p in found.model.named_parameters():
        assert torch.equal(p, wanted_frozen.model.get_parameter(name))


def counted(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many models are copied from now on."""
    number, real = [0], copy.deepcopy

    def deepcopy(what: Any, memo: Any = None) -> Any:
        number[0] += isinstance(what, torch.nn.Module) and memo is None
        return real(what, memo)

    monkeypatch.setattr(copy, "deepcopy", deepcopy)
    return lambda: number[0]
