"""Plans against the counted bytes and FLOPs of the solve they foretell."""

from typing import Any

import pytest
import torch
from test_cost import opt

from unlearn_lib.curvature import KFAC, EmpiricalFisher, GaussNewton, Hessian
from unlearn_lib.errors import InputError

CASES: tuple[tuple[type, str, dict[str, Any]], ...] = (
    (EmpiricalFisher, "woodbury", {}),
    (EmpiricalFisher, "woodbury", {"keep": "gradients"}),
    (EmpiricalFisher, "woodbury", {"keep": "nothing"}),
    (EmpiricalFisher, "woodbury", {"keep": "nothing", "passes": 4}),
    (EmpiricalFisher, "block", {"width": 48}),
    (EmpiricalFisher, "diagonal", {}),
    (EmpiricalFisher, "recursion", {}),
    (EmpiricalFisher, "cg", {"max_steps": 1}),
    (GaussNewton, "cg", {"max_steps": 1}),
    (EmpiricalFisher, "cg", {"max_steps": 1, "linearize": True}),
    (GaussNewton, "cg", {"max_steps": 1, "linearize": True}),
    (Hessian, "cg", {"max_steps": 1}),
    (Hessian, "cg", {"max_steps": 1, "linearize": True}),
)


@pytest.mark.parametrize("sizes", [(16,), (6, 6, 4)])
@pytest.mark.parametrize(("make", "solver", "options"), CASES)
def test_plan_is_within_a_fifth_of_what_is_counted(
    make: type, solver: str, options: dict[str, Any], sizes: tuple[int, ...]
) -> None:
    model, batch = opt(layers=2)
    batches = [dict(zip(batch, part, strict=True)) for part in zip(*(t.split(sizes) for t in batch.values()), strict=True)]
    operator = make(model, batches)
    plan = operator.plan(solver, **options)
    v = torch.randn(operator.size, generator=torch.Generator().manual_seed(0))
    solution = operator.solve(v, 100.0, solver, tolerance=1e-9 if solver == "cg" else 0.1, throw=False, **options)
    assert plan.peak_memory_bytes == pytest.approx(solution.peak_memory_bytes, rel=0.2)
    assert plan.gradient_evaluations == pytest.approx(solution.gradient_evaluations, rel=0.1)


def test_what_does_not_fit_is_refused_with_the_setting_that_does() -> None:
    model, batch = opt()
    F = EmpiricalFisher(model, [{key: t[i : i + 4] for key, t in batch.items()} for i in range(0, 16, 4)])
    v = torch.ones(F.size)
    limit = 70 * 2**20
    with pytest.raises(
        InputError, match=r"woodbury: 1\d\d MiB.*what fits: woodbury, keep='nothing', passes=\d+: \d\d MiB"
    ) as caught:
        F.solve(v, 0.1, memory_limit=limit)
    passes = int(str(caught.value).split("passes=")[1].split(":")[0])
    solution = F.solve(v, 0.1, memory_limit=limit, keep="nothing", passes=passes)
    assert solution.peak_memory_bytes <= limit
    with pytest.raises(InputError, match="use smaller batches, fewer sequences, or a part of the parameters"):
        F.solve(v, 0.1, memory_limit=2**20)
    assert F.solve(v, 0.1, memory_limit=2**30).converged


def test_plan_without_the_memory_for_the_model() -> None:
    """Parameters without contents: a model that this machine could not hold has a plan too."""
    from transformers import AutoModelForCausalLM, OPTConfig

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(OPTConfig(num_hidden_layers=2), attn_implementation="eager").eval()
    ids = torch.zeros(4, 32, dtype=torch.long)  # the batches may well be there
    F = EmpiricalFisher(model, [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}])
    plan = F.plan()
    check = 2 / 3 / 4  # of one of the four texts
    assert plan.gradient_evaluations == pytest.approx(2.0 + check, abs=0.1)
    assert plan.peak_memory_bytes > 3 * 4 * F.size


def test_refusals() -> None:
    model, batch = opt()
    with pytest.raises(InputError, match="no plan for solver 'kfac'; there is one for woodbury"):
        KFAC(model, [batch]).plan()
    F = EmpiricalFisher(model, [batch])
    with pytest.raises(InputError, match="memory_limit needs a plan, and there is none for a Combination"):
        (2 * F).solve(torch.ones(F.size), 1.0, memory_limit=1)
