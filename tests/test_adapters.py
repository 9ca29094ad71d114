"""Every kind of peft adapter that trains on texts, against plain reverse mode; those that cannot work are refused with the reason."""

from pathlib import Path
from typing import Any

import pytest
from by_reverse_mode import assert_plans_know_the_cost, errors, examples
from dense import batched

from unlearn_lib import unlearn
from unlearn_lib.curvature import KFAC, EmpiricalFisher
from unlearn_lib.curvature.uses import materialise
from unlearn_lib.errors import InputError

peft = pytest.importorskip("peft")
from adapters import ADAPTERS, FAST, REFUSED, adapted, mixture_of_adapters  # noqa: E402

BOUND = 1e-7
# of peft and torch, about their own work
pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]


def build(name: str) -> Any:
    if name == "adamss":
        pytest.importorskip("sklearn", reason="AdaMSS needs scikit-learn")
    return adapted(name)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.nightly) for n in ADAPTERS if n not in REFUSED]
)
def test_operators_are_those_of_each_sequence_alone(name: str) -> None:
    found = errors(build(name))
    assert max(found.values()) < BOUND, found


@pytest.mark.nightly
def test_a_mixture_of_adapters(tmp_path: Path) -> None:
    found = errors(mixture_of_adapters(tmp_path))
    assert max(found.values()) < BOUND, found


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_work_is_refused_with_its_reason(name: str) -> None:
    with pytest.raises(InputError, match=REFUSED[name]):
        EmpiricalFisher(build(name), batched(examples(), (2, 1)))


def test_unlearn_refuses_an_adapter_that_takes_more_than_texts(tokenizer: Any) -> None:
    with pytest.raises(InputError, match=REFUSED["poly"]):
        unlearn(build("poly"), tokenizer, forget=[{"text": "a"}], method="gradient-ascent", step=1.0)


@pytest.mark.nightly
def test_every_kind_of_adapter_is_here() -> None:
    kinds = {kind.value.lower().replace("_", "-") for kind in peft.PeftType} - {"xlora"}
    assert kinds == {name.partition("/")[0] for name in ADAPTERS}


@pytest.mark.parametrize(
    "name", ["prompt-tuning", *(pytest.param(n, marks=pytest.mark.nightly) for n in ("loha", "oft", "lora/dora"))]
)
def test_plans_of_adapters(name: str) -> None:
    assert_plans_know_the_cost(build(name), batched(examples(), (2, 1)), woodbury=0.3, cg=0.3)


@pytest.mark.parametrize("name", ["loha", "prompt-tuning"])
def test_kfac_of_adapters_has_the_trace_of_its_draws(name: str) -> None:
    """Of parameters that no product shows, and of virtual tokens, which are other positions than the text's."""
    kfac = KFAC(build(name), batched(examples(), (2, 1)))
    squares = [
        float(materialise(found, 0, len(kfac.params[key])).square().sum())
        for uses, _ in kfac._draws()
        for key, found in uses.items()
    ]
    assert kfac.trace() == pytest.approx(sum(squares), rel=1e-10)
    assert KFAC(build(name), batched(examples(), (2, 1)), correction=False).trace() > 0
