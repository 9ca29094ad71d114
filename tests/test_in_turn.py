"""Jang et al.'s recipe, one request after another: when it stops, what it costs, and what of all requests is known after each."""

from typing import Any

import pytest
import torch

from unlearn_lib import InputError, text_losses, unlearn
from unlearn_lib.audit.in_turn import Known, by_heart, in_turn
from unlearn_lib.data.batches import encode
from unlearn_lib.methods import choose
from unlearn_lib.metrics.memorisation import extraction_likelihood, generations, memorisation_accuracy, right_tokens

RATE: dict[str, Any] = {"preset": "jang", "step": 2e-3, "epochs": 60}
N = 3


@pytest.fixture
def short(texts: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"text": row["text"][:50]} for row in texts]


def test_by_heart_is_what_the_measures_say(memorised: Any, tokenizer: Any, short: Any) -> None:
    found = by_heart(memorised, tokenizer, short[:3], n=N)
    examples = encode(short[:3], tokenizer, 256).examples
    assert found.loss == pytest.approx(text_losses(memorised, tokenizer, short[:3]).mean().item())
    assert found.accuracy == memorisation_accuracy(right_tokens(memorised, examples))
    assert found.likelihood == extraction_likelihood(memorised, examples, N)
    unseen = by_heart(memorised, tokenizer, short[30:33], n=N)
    assert unseen.accuracy < found.accuracy
    assert unseen.likelihood < found.likelihood
    with pytest.raises(InputError, match="no texts to measure"):
        by_heart(memorised, tokenizer, [])


def test_a_sequence_of_requests(memorised: Any, tokenizer: Any, short: Any, fingerprint: Any) -> None:
    """Each request comes down to what the original model knows of unseen texts, and the original stays as it is."""
    before, unseen = fingerprint(memorised), by_heart(memorised, tokenizer, short[30:36], n=N)
    goals: dict[str, Any] = {"unseen_accuracy": unseen.accuracy, "unseen_likelihood": unseen.likelihood}
    requests, retain = [short[:2], short[2:4]], short[4:24]
    found = in_turn(memorised, tokenizer, requests, retain=retain, n=N, **RATE, **goals)
    assert fingerprint(memorised) == before
    assert [one.number for one in found] == [0, 1, 2]
    first = found[0].measured
    assert isinstance(first, Known)
    assert first.requests == tuple(by_heart(memorised, tokenizer, rows, n=N) for rows in requests)
    assert first.retain_loss == pytest.approx(text_losses(memorised, tokenizer, retain).mean().item())
    for number, one in enumerate(found[1:]):
        served = one.measured.requests[number]
        assert served.accuracy <= unseen.accuracy < first.requests[number].accuracy
        assert served.likelihood <= unseen.likelihood
        assert served.loss > first.requests[number].loss
    assert found[0].measured.retain_loss < found[2].measured.retain_loss
    model = unlearn(memorised, tokenizer, forget=requests[0], method="gradient-ascent", n=N, **RATE, **goals).model
    assert found[1].measured.requests[0] == by_heart(model, tokenizer, requests[0], n=N)


def test_another_method_and_all_at_once(memorised: Any, tokenizer: Any, short: Any) -> None:
    options: dict[str, Any] = {"method": "gradient-difference", "epochs": 1, "learning_rate": 1e-3}
    found = in_turn(memorised, tokenizer, [short[:4]], retain=short[4:12], n=N, **options)
    assert [(one.texts, len(one.measured.requests)) for one in found] == [(0, 1), (4, 1)]


def test_given_goals_need_no_holdout(memorised: Any, tokenizer: Any, short: Any) -> None:
    options: dict[str, Any] = {**RATE, "n": N}
    assert choose("gradient-ascent", {**options, "unseen_accuracy": 0.3, "unseen_likelihood": 0.1}, []).required() == ()
    with pytest.raises(InputError, match="needs holdout"):
        choose("gradient-ascent", {**options, "unseen_accuracy": 0.3}, [])
    with pytest.raises(InputError, match=r"option unseen_likelihood of gradient-ascent is 1\.5"):
        choose("gradient-ascent", {"unseen_likelihood": 1.5}, [])
    goals: dict[str, Any] = {"unseen_accuracy": 1.0, "unseen_likelihood": 1.0}
    result = unlearn(memorised, tokenizer, forget=short[:2], method="gradient-ascent", **options, **goals)
    assert result.history == []  # any model is at or below that
    assert result.details | {"accuracy_of_unseen": 1.0, "likelihood_of_unseen": 1.0} == result.details
    assert not any(warning.startswith("forgetting_incomplete") for warning in result.warnings)


def test_passes_that_do_not_lead_there_are_said(memorised: Any, tokenizer: Any, short: Any) -> None:
    options: dict[str, Any] = {"method": "gradient-ascent", "preset": "jang", "step": 1e-9, "epochs": 2, "n": N}
    result = unlearn(memorised, tokenizer, forget=short[:2], **options, unseen_accuracy=0.0, unseen_likelihood=0.0)
    (warning,) = [warning for warning in result.warnings if warning.startswith("forgetting_incomplete")]
    assert "after 2 passes the memorisation accuracy is " in warning
    assert "EL_3" not in warning  # which was not looked at
    result = unlearn(memorised, tokenizer, forget=short[:2], **options, unseen_accuracy=1.0, unseen_likelihood=0.0)
    (warning,) = [warning for warning in result.warnings if warning.startswith("forgetting_incomplete")]
    assert "after 2 passes the EL_3 is " in warning
    assert warning.endswith("and that of unseen texts 0.000")


def test_looking_is_counted(memorised: Any, tokenizer: Any, short: Any) -> None:
    """A pass for the accuracy, and a generation for every prefix: of half of the holdout, then of the forget texts again and again."""
    forget, holdout = short[:2], short[30:34]
    options: dict[str, Any] = {"method": "gradient-ascent", "preset": "jang", "step": 1e-9, "epochs": 3, "n": N}
    seen = unlearn(memorised, tokenizer, forget=forget, holdout=holdout, **options, unseen_accuracy=1.0)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(0)).tolist()
    half = encode([holdout[i] for i in order[:2]], tokenizer, 256).examples
    examples = encode(forget, tokenizer, 256).examples
    assert generations(half, N) == sum(len(example.input_ids) - N for example in half)
    assert seen.cost.forward_evaluations == generations(half, N) + 4 * (2 + generations(examples, N))
    assert seen.cost.gradient_evaluations == 3 * 2
