"""Series of requests against single calls of `unlearn`, and what is retained, measured and refused on the way."""

from collections.abc import Callable
from typing import Any

import pytest

from unlearn_lib import InputError, load_task, text_losses, unlearn
from unlearn_lib.audit import requests as module
from unlearn_lib.audit.requests import Served, consecutive, growing

Rows = list[dict[str, str]]
ASCENT: dict[str, Any] = {"method": "gradient-ascent", "step": 0.05, "epochs": 2, "forget_batch_size": 2}


@pytest.fixture
def loss(tokenizer: Any, texts: Rows) -> Callable[[Any], float]:
    return lambda model: text_losses(model, tokenizer, texts[:6]).mean().item()


def numbers(found: list[Served[Any]]) -> list[tuple[int, int, int]]:
    return [(one.number, one.texts, one.forgotten) for one in found]


def test_each_request_goes_on_from_the_model_before(
    tiny: Any, tokenizer: Any, texts: Rows, loss: Callable[[Any], float], fingerprint: Callable[[Any], str]
) -> None:
    model = tiny()
    before = fingerprint(model)
    parts = [texts[:2], texts[2:3], texts[3:6]]
    found = consecutive(model, tokenizer, parts, fingerprint, seed=5, **ASCENT)
    assert fingerprint(model) == before == found[0].measured
    assert numbers(found) == [(0, 0, 0), (1, 2, 2), (2, 1, 3), (3, 3, 6)]
    for number, part in enumerate(parts):
        model = unlearn(model, tokenizer, forget=part, seed=5 + number, **ASCENT).model
        assert found[number + 1].measured == fingerprint(model)
    again = consecutive(tiny(), tokenizer, parts, fingerprint, seed=5, **ASCENT)
    assert [one.measured for one in again] == [one.measured for one in found]
    assert found[0].cost is None
    assert all(one.cost is not None and one.cost.gradient_evaluations > 0 for one in found[1:])


def test_the_more_is_forgotten_the_higher_the_loss(
    tiny: Any, tokenizer: Any, texts: Rows, loss: Callable[[Any], float]
) -> None:
    for series, parts in (
        (consecutive, [texts[:2], texts[2:4], texts[4:6]]),
        (growing, [texts[:2], texts[:4], texts[:6]]),
    ):
        found = series(tiny(), tokenizer, parts, loss, **ASCENT)
        losses = [one.measured for one in found]
        assert losses == sorted(losses)
        assert losses[-1] > losses[0] + 0.01


def test_growing_requests_all_begin_with_the_original(
    tiny: Any, tokenizer: Any, texts: Rows, fingerprint: Callable[[Any], str]
) -> None:
    model = tiny()
    found = growing(model, tokenizer, [texts[:1], texts[:4]], fingerprint, seed=2, **ASCENT)
    assert numbers(found) == [(0, 0, 0), (1, 1, 1), (2, 4, 4)]
    for part, one in zip((texts[:1], texts[:4]), found[1:], strict=True):
        assert one.measured == fingerprint(unlearn(model, tokenizer, forget=part, seed=2, **ASCENT).model)
    single = consecutive(model, tokenizer, [texts[:4]], fingerprint, seed=2, **ASCENT)
    assert single[1].measured == found[2].measured


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `unlearn` is called with; the model it gives is the one that it was given."""
    calls: list[dict[str, Any]] = []

    class Result:
        cost, warnings = None, ["said"]

        def __init__(self, model: Any) -> None:
            self.model = model

    def note(model: Any, tokenizer: Any, **arguments: Any) -> Result:
        calls.append(arguments)
        return Result(model)

    monkeypatch.setattr(module, "unlearn", note)
    return calls


def test_nothing_forgotten_is_retained(given: list[dict[str, Any]], texts: Rows) -> None:
    """Of consecutive requests none of any earlier one, also where its prompt is another part of it; texts of later ones are."""
    retain = [texts[0], {"prompt": texts[1]["text"][:9], "completion": texts[1]["text"][9:]}, texts[2], texts[5]]
    found = consecutive(None, None, [texts[:1], texts[1:2], [texts[0], texts[2]]], lambda _: 7, retain=retain, method="npo")
    assert [call["retain"] for call in given] == [retain[1:], retain[2:], retain[3:]]
    assert [call["seed"] for call in given] == [0, 1, 2]
    assert all(call["method"] == "npo" for call in given)
    assert numbers(found) == [(0, 0, 0), (1, 1, 1), (2, 1, 2), (3, 2, 3)]
    assert [one.measured for one in found] == [7] * 4
    assert found[1].warnings == ("said",)
    given.clear()
    growing(None, None, [texts[:1], texts[1:3]], lambda _: 7, retain=retain)
    assert [call["retain"] for call in given] == [retain[1:], [retain[0], retain[3]]]
    given.clear()
    growing(None, None, [texts[:1]], lambda _: 7)
    assert given[0]["retain"] is None


def test_the_folds_of_muse(given: list[dict[str, Any]]) -> None:
    task = load_task("muse")
    for series, part in ((consecutive, "sustainability"), (growing, "scaling")):
        found = series(None, None, [task[f"{part}_{i}"] for i in range(1, 5)], lambda _: None, retain=task["retain"])
        assert [one.forgotten for one in found] == [0, 16, 32, 48, 64]
    assert all(len(call["retain"]) == 96 for call in given)


def test_series_that_cannot_be_carried_out_are_refused(given: list[dict[str, Any]], texts: Rows) -> None:
    for series in (consecutive, growing):
        with pytest.raises(InputError, match="at least one request"):
            series(None, None, [], lambda _: None)
        with pytest.raises(InputError, match="at least one request"):
            series(None, None, "forget.jsonl", lambda _: None)
        with pytest.raises(InputError, match="request 2 has no texts"):
            series(None, None, [texts[:1], []], lambda _: None)
        with pytest.raises(InputError, match="with request 1 every retain text has been forgotten"):
            series(None, None, [texts[:2]], lambda _: None, retain=texts[:1])
    with pytest.raises(InputError, match=r"have \[2, 2\] different texts, which do not grow"):
        growing(None, None, [texts[:2], [*texts[:2], texts[0]]], lambda _: None)
    with pytest.raises(InputError, match="request 2 row 0"):
        consecutive(None, None, [texts[:1], [{"words": "x"}]], lambda _: None)
    assert not given, "nothing is carried out before all requests have been read"
