"""Plans against the counted bytes and FLOPs of the solve they foretell."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from test_cost import opt

from unlearn_lib.curvature import (
    KFAC,
    Auto,
    Block,
    ConjugateGradients,
    Dense,
    Diagonal,
    EmpiricalFisher,
    GaussNewton,
    Hessian,
    Kronecker,
    Recursion,
    Solver,
    Woodbury,
    plan,
    rehearsal,
    solve,
)
from unlearn_lib.data.batches import encode, make_batches
from unlearn_lib.errors import InputError

CASES: tuple[tuple[Callable[..., Any], type[Solver], dict[str, Any]], ...] = (
    (EmpiricalFisher, Woodbury, {}),
    (EmpiricalFisher, Woodbury, {"keep": "gradients"}),
    (EmpiricalFisher, Woodbury, {"keep": "nothing"}),
    (EmpiricalFisher, Woodbury, {"keep": "nothing", "passes": 4}),
    (EmpiricalFisher, Block, {"width": 48}),
    (EmpiricalFisher, Diagonal, {}),
    (EmpiricalFisher, Recursion, {}),
    (EmpiricalFisher, ConjugateGradients, {"max_steps": 1}),
    (GaussNewton, ConjugateGradients, {"max_steps": 1}),
    (EmpiricalFisher, ConjugateGradients, {"max_steps": 1, "linearize": True}),
    (GaussNewton, ConjugateGradients, {"max_steps": 1, "linearize": True}),
    (Hessian, ConjugateGradients, {"max_steps": 1}),
    (Hessian, ConjugateGradients, {"max_steps": 1, "linearize": True}),
    (KFAC, Kronecker, {}),
    (partial(KFAC, correction=False), Kronecker, {}),
    (partial(KFAC, correction=False, positions=0.5, samples=2), Kronecker, {}),
    (partial(KFAC, positions=0.5, max_side=300), Kronecker, {}),
)


@pytest.mark.parametrize("sizes", [pytest.param((16,), marks=pytest.mark.nightly), (6, 6, 4)])
@pytest.mark.parametrize(("make", "solver", "options"), CASES)
def test_plan_is_within_a_fifth_of_what_is_counted(
    make: Callable[..., Any], solver: type[Solver], options: dict[str, Any], sizes: tuple[int, ...]
) -> None:
    # K-FAC decomposes matrices of whole sides, and the products of the other two are formed many times: of a smaller model
    model, batch = opt(layers=2, width=256 if make is EmpiricalFisher else 128)
    batches = [dict(zip(batch, part, strict=True)) for part in zip(*(t.split(sizes) for t in batch.values()), strict=True)]
    operator = make(model, batches)
    chosen = solver(100.0, **options)
    planned = plan(operator, chosen)
    v = torch.randn(operator.size, generator=torch.Generator().manual_seed(0))
    solution = solve(operator, v, chosen, tolerance=1e-9 if solver is ConjugateGradients else 0.1, throw=False)
    assert planned.peak_memory_bytes == pytest.approx(solution.peak_memory_bytes, rel=0.2)
    assert planned.gradient_evaluations == pytest.approx(solution.gradient_evaluations, rel=0.1)


def of_many_lengths() -> tuple[Any, list[dict[str, torch.Tensor]]]:
    """Batches of six shapes."""
    model, batch = opt(layers=2, width=128)
    sizes = ((4, 64), (2, 20), (2, 33), (2, 40), (2, 50), (4, 57))
    parts = zip(*(tensor.split([B for B, _ in sizes]) for tensor in batch.values()), strict=True)
    return model, [
        {key: t[:, :T] for key, t in zip(batch, part, strict=True)} for part, (_, T) in zip(parts, sizes, strict=True)
    ]


@pytest.mark.parametrize(("make", "solver"), [(EmpiricalFisher, Woodbury), (partial(KFAC, correction=False), Kronecker)])
def test_of_many_lengths_the_longest_and_the_shortest_are_rehearsed(
    make: Callable[..., Any], solver: type[Solver], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batches = of_many_lengths()
    rehearsed, plain = [], rehearsal._rehearse_shape
    monkeypatch.setattr(rehearsal, "_rehearse_shape", lambda risk, shape: rehearsed.append(shape) or plain(risk, shape))
    operator, chosen = make(model, batches), solver(100.0)
    planned = plan(operator, chosen)
    assert sorted(rehearsed) == [(2, 20), (4, 64)]
    v = torch.randn(operator.size, generator=torch.Generator().manual_seed(0))
    solution = solve(operator, v, chosen, tolerance=0.1, throw=False)
    assert planned.peak_memory_bytes == pytest.approx(solution.peak_memory_bytes, rel=0.2)
    assert planned.gradient_evaluations == pytest.approx(solution.gradient_evaluations, rel=0.02)
    monkeypatch.setattr(rehearsal, "FEW", len(batches))
    whole = plan(make(model, batches), chosen)
    assert planned.peak_memory_bytes == pytest.approx(whole.peak_memory_bytes, rel=0.02)


def test_the_dense_plan_is_in_bytes(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model = tiny(dtype=torch.float32)
    F = EmpiricalFisher(model, make_batches(encode(texts[:8], tokenizer, 256).examples, 4), params="*layers.0.self_attn*")
    planned = plan(F, Dense(100.0))
    solution = solve(F, torch.ones(F.size), Dense(100.0), throw=False)
    assert planned.peak_memory_bytes == pytest.approx(solution.peak_memory_bytes, rel=0.2)
    assert planned.gradient_evaluations == pytest.approx(solution.gradient_evaluations, rel=0.1)


def test_what_does_not_fit_is_refused_with_the_setting_that_does() -> None:
    model, batch = opt()
    F = EmpiricalFisher(model, [{key: t[i : i + 4] for key, t in batch.items()} for i in range(0, 16, 4)])
    v = torch.ones(F.size)
    limit = 70 * 2**20
    with pytest.raises(
        InputError, match=r"woodbury: 1\d\d MiB.*what fits: woodbury, keep='nothing', passes=\d+: \d\d MiB"
    ) as caught:
        solve(F, v, Auto(0.1), memory_limit=limit)
    passes = int(str(caught.value).split("passes=")[1].split(":")[0])
    solution = solve(F, v, Woodbury(0.1, keep="nothing", passes=passes), memory_limit=limit)
    assert solution.peak_memory_bytes <= limit
    with pytest.raises(InputError, match="use smaller batches, fewer sequences, or a part of the parameters"):
        solve(F, v, Auto(0.1), memory_limit=2**20)
    assert solve(F, v, Auto(0.1), memory_limit=2**30).converged


def test_plan_without_the_memory_for_the_model() -> None:
    """Parameters without contents: a model that this machine could not hold has a plan too."""
    from transformers import AutoModelForCausalLM, OPTConfig

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(OPTConfig(num_hidden_layers=2), attn_implementation="eager").eval()
    ids = torch.zeros(4, 32, dtype=torch.long)  # the batches may well be there
    F = EmpiricalFisher(model, [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}])
    planned = plan(F, Auto(1.0))
    check = 2 / 3 / 4  # of one of the four texts
    assert planned.gradient_evaluations / 4 == pytest.approx(2.0 + check, abs=0.1)
    assert planned.peak_memory_bytes > 3 * 4 * F.size


def test_refusals() -> None:
    model, batch = opt()
    F = EmpiricalFisher(model, [batch])

    class Unknown(Dense):
        name, planned = "unknown", False

    with pytest.raises(InputError, match="no plan for solver 'unknown'; there is one for woodbury"):
        plan(F, Unknown(1.0))
    with pytest.raises(InputError, match="the kfac solver inverts a KFAC operator, not a EmpiricalFisher"):
        plan(F, Kronecker(1.0))
    with pytest.raises(InputError, match="memory_limit needs a plan, and there is none for a Combination"):
        solve(2 * F, torch.ones(F.size), Auto(1.0), memory_limit=1)
    for solver in (Diagonal(1.0), Block(1.0), Dense(1.0)):  # of any other operator they form the whole matrix
        with pytest.raises(InputError, match=f"'{solver.name}' with an EmpiricalFisher alone, not with a Hessian"):
            plan(Hessian(model, [batch]), solver)
    with pytest.raises(InputError, match="matrix is refused"):
        plan(F, Dense(1.0))


def test_a_plan_says_what_it_counts() -> None:
    model, batch = opt(layers=1)
    F = EmpiricalFisher(model, [batch])
    assert "woodbury, keep='gradients': " in str(plan(F, Woodbury(1.0, keep="gradients")))
    steps = plan(F, ConjugateGradients(1.0, max_steps=3))
    assert str(steps).endswith(f"at most {steps.gradient_evaluations:,.1f} gradients of single texts")
    assert steps.gradient_evaluations == pytest.approx(4 * 2 * 16)  # 4 products of 2 gradients, for each of 16 texts
