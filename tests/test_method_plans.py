"""What the plan of a first-order method says of its memory, beside what it takes."""

import copy
from typing import Any

import pytest

from unlearn_lib import load_model
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import prepare


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("gradient-ascent", {}),
        ("gradient-difference", {}),
        ("gradient-difference", {"retain_loss": "kl"}),
        ("npo", {"retain_loss": "kl"}),
        ("undial", {}),
    ],
)
def test_a_plan_counts_what_both_terms_of_a_loss_keep(
    method: str, options: dict[str, Any], tokenizer: Any, texts: list[dict[str, str]]
) -> None:
    """On a model whose activations are larger than its weights."""
    model, _ = load_model("nano/opt-s", device="cpu")
    request = Request(forget=texts[:8], retain=texts[8:24], method=method, options={"epochs": 1, **options})
    prepared = prepare(model, tokenizer, request)
    planned = prepared.method.plan(model, prepared.inputs)
    with Meter() as meter:
        prepared.method.run(copy.deepcopy(model), prepared.inputs)
    assert 0.85 < planned.peak_memory_bytes / meter.peak < 1.4  # a plan that is too small is worse than one that is too large
