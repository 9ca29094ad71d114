"""How often a method waits for the device: every number that is copied to the host does that on a GPU. Counted on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from dense import batched, build
from test_symmetric import sequences
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unlearn_lib import unlearn
from unlearn_lib.curvature import KFAC, Block, Diagonal, EmpiricalFisher, Kronecker, SequenceGradients, Woodbury, solve
from unlearn_lib.curvature.gradient import mean_gradient, summed_gradient
from unlearn_lib.curvature.softmax_head import HeadRisk, HeadTexts
from unlearn_lib.losses import sequence_losses
from unlearn_lib.models import nano

FORGET, HOLDOUT = slice(0, 4), slice(30, 40)


LOOKS = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "bincount", "repeat_interleave.Tensor", "_unique2"}


class HostCopies(TorchDispatchMode):
    """Counts the operations that look at a tensor's contents; a mask as an index is one, because the result's size depends on it."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().removeprefix("aten::")
        indices = args[1] if name in ("index.Tensor", "index_put_", "index_put") else ()
        self.count += name in LOOKS or any(index is not None and index.dtype == torch.bool for index in indices)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> HostCopies:
    counter = HostCopies()

    def counted(plain: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        def call(tensor: Tensor) -> Any:
            counter.count += 1  # a list is one copy, which no operation stands for on a CPU
            return plain(tensor)

        return call

    for name in ("tolist", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, counted(getattr(torch.Tensor, name)))
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
    assert few <= 2 * 4 + 20  # and lists of numbers elsewhere
    assert of(copies, tokenizer, texts, 4, 8, **options) == few


@pytest.mark.parametrize(
    ("method", "options"),
    [("newton", {"step": 1e-3, "max_steps": 8}), ("gradient-ascent", {}), ("gradient-ascent", {"epochs": 3})],
)
def test_copies_do_not_grow_with_the_parameters(
    method: str, options: dict[str, Any], copies: HostCopies, tokenizer: Any, texts: Any
) -> None:
    small, large = (of(copies, tokenizer, texts, layers, 8, method, **options) for layers in (2, 4))
    assert large <= small + 8
    assert small <= 8 * 10


@pytest.mark.parametrize("solver", ["block", "woodbury", "kfac"])
def test_solvers_look_a_few_times_at_each_parameter(solver: str, copies: HostCopies, tokenizer: Any, texts: Any) -> None:
    options: dict[str, Any] = {"method": "fisher-removal", "solver": solver, "steps": 1, "step": 1.0}
    found = of(copies, tokenizer, texts, 3, 24, **options)
    assert found <= 5 * 52  # parameters of three layers


OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "woodbury": lambda model, batches: solve_fisher(model, batches, Woodbury(0.1)),
    "woodbury, keep gradients": lambda model, batches: solve_fisher(model, batches, Woodbury(0.1, keep="gradients")),
    "block": lambda model, batches: solve_fisher(model, batches, Block(0.1)),
    "block, root": lambda model, batches: solve_fisher(model, batches, Block(0.1), -0.5),
    "diagonal": lambda model, batches: solve_fisher(model, batches, Diagonal(0.1)),
    "K-FAC": lambda model, batches: solve_kfac(model, batches, correction=False),
    "K-FAC, factored damping": lambda model, batches: solve_kfac(model, batches, factored=True, correction=False),
    "K-FAC, half of the positions": lambda model, batches: solve_kfac(model, batches, correction=False, positions=0.5),
    "EK-FAC": lambda model, batches: solve_kfac(model, batches),
    "norms": lambda model, batches: EmpiricalFisher(model, batches).gradients().norms(),
    "mean gradient": mean_gradient,
    "summed gradient": lambda model, batches: summed_gradient(model, batches, lambda batch: loss_of(model, batch), "it"),
}


def solve_fisher(model: Any, batches: Any, solver: Any, exponent: float = -1.0) -> None:
    F = EmpiricalFisher(model, batches)
    solve(F, torch.ones(F.size), solver, exponent=exponent, throw=False)


def solve_kfac(model: Any, batches: Any, factored: bool = False, **options: Any) -> None:
    K = KFAC(model, batches, **options)
    solve(K, torch.ones(K.size), Kronecker(0.1, factored), throw=False)


def loss_of(model: Any, batch: Any) -> tuple[Tensor, Tensor]:
    loss = sequence_losses(model, batch).sum()
    return loss, loss.detach().double()


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_operation_looks_at_every_batch_or_parameter(operation: str, copies: HostCopies) -> None:
    """Tied weights, which are looked up and multiplied; the first solve of a class of model compares one text, and is not counted."""

    def found(layers: int, batches: int) -> int:
        config = nano.config(nano.ModelSpec("opt", 16, layers, 2, 0.0, 0, ""))
        config.vocab_size = 64  # no more tokens than that are in the texts
        from transformers import AutoModelForCausalLM

        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        texts = batched(sequences(12), (12 // batches,) * batches)
        OPERATIONS[operation](model, texts)
        before = copies.count
        with copies:
            OPERATIONS[operation](model, texts)
        return copies.count - before

    one = found(1, 2)
    assert found(1, 6) == one
    assert found(3, 2) == one
    assert 1 <= one <= 16


@pytest.mark.parametrize("operation", ["gram", "norms", "squares"])
def test_no_block_of_columns_is_looked_at(operation: str, copies: HostCopies) -> None:
    F = EmpiricalFisher(build("gpt2", vocabulary=200), batched(sequences(6), (3, 3)))
    few, many = SequenceGradients(F, chunk=1 << 20), SequenceGradients(F, chunk=1)
    assert len(list(many.blocks())) > len(list(few.blocks())) + 10
    found = []
    for gradients in (few, many):
        before = copies.count
        with copies:
            getattr(gradients, operation)()
        found.append(copies.count - before)
    assert found == [1, 1]


def test_the_loss_of_a_head_is_one_copy(copies: HostCopies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unlearn_lib.curvature.softmax_head.CHUNK", 10)
    texts = HeadTexts(torch.ones(20, 3), torch.arange(20) % 5, torch.arange(20) // 4, tuple("abcde"))
    risk = HeadRisk(texts)
    with copies:
        assert risk.loss(torch.zeros(5, 3, dtype=torch.float64)) == pytest.approx(5 * torch.tensor(5.0).log().item())
    assert copies.count == 2  # this test's own one included
