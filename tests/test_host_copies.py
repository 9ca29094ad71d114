"""How often a method waits for the device: every number that is copied to the host does that on a GPU. Counted on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from unlearn_lib import unlearn
from unlearn_lib.curvature import vector
from unlearn_lib.models import nano

FORGET, HOLDOUT = slice(0, 4), slice(30, 40)


class HostCopies(TorchDispatchMode):
    """Counts the operations that look at a tensor's contents."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name() in ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal"):
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> HostCopies:
    counter, plain = HostCopies(), vector.numbers

    def counted(scalars: Any) -> list[float]:
        counter.count += 1  # a list is one copy, which no operation stands for on a CPU
        return plain(scalars)

    for module in ("vector", "solvers.block"):
        monkeypatch.setattr(f"unlearn_lib.curvature.{module}.numbers", counted)
    return counter


def of(copies: HostCopies, tokenizer: Any, texts: Any, layers: int, kept: int, method: str, **options: Any) -> int:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(nano.config(nano.ModelSpec("opt", 16, layers, 2, 0.0, 0, ""))).eval()
    before = copies.count
    with copies:
        unlearn(model, tokenizer, forget=texts[FORGET], retain=texts[4 : 4 + kept], method=method, **options)
    return copies.count - before


@pytest.mark.parametrize("method", ["fisher-removal", "fisher-forgetting"])
def test_the_recursion_looks_twice_a_term(method: str, copies: HostCopies, tokenizer: Any, texts: Any) -> None:
    """At the loss, and whether it and the gradient are finite; however many parameters there are."""
    options: dict[str, Any] = {"method": method, "preset": "paper", "retain_batch_size": 2}
    few, many = (of(copies, tokenizer, texts, 2, kept, **options) for kept in (8, 24))
    assert many - few == 2 * 8
    assert few <= 2 * 4 + 8
    assert of(copies, tokenizer, texts, 6, 8, **options) == few


@pytest.mark.parametrize(
    ("method", "options"),
    [("newton", {"step": 1e-3, "max_steps": 20}), ("gradient-ascent", {}), ("gradient-ascent", {"epochs": 3})],
)
def test_copies_do_not_grow_with_the_parameters(
    method: str, options: dict[str, Any], copies: HostCopies, tokenizer: Any, texts: Any
) -> None:
    small, large = (of(copies, tokenizer, texts, layers, 8, method, **options) for layers in (2, 6))
    assert large <= small + 8
    assert small <= 8 * 22


@pytest.mark.parametrize("solver", ["block", "woodbury", "kfac"])
def test_solvers_look_a_few_times_at_each_parameter(solver: str, copies: HostCopies, tokenizer: Any, texts: Any) -> None:
    options: dict[str, Any] = {"method": "fisher-removal", "solver": solver, "steps": 1, "step": 1.0}
    found = of(copies, tokenizer, texts, 6, 24, **options)
    assert found <= 5 * 100  # parameters of six layers
