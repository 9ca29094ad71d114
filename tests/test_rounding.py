"""Factors in bfloat16: half the memory, products in float32, and a residual that shows what the rounding does; against float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from dense import batched, build, examples, relative
from test_cost import opt
from torch import Tensor

from unlearn_lib.curvature import Block, EmpiricalFisher, GaussNewton, NotConvergedError, Solver, Woodbury, plan, solve
from unlearn_lib.curvature.rounding import rounded
from unlearn_lib.curvature.uses import Direct, Lookup, Outer
from unlearn_lib.errors import InputError

HALF_UNIT = 2.0**-8
"""The largest relative error of one number."""
SOLVERS: tuple[type[Solver], ...] = (Woodbury, Block)


def parts(sizes: tuple[int, ...]) -> tuple[Any, list[dict[str, Tensor]]]:
    model, batch = opt(layers=1)
    return model, [dict(zip(batch, one, strict=True)) for one in zip(*(t.split(sizes) for t in batch.values()), strict=True)]


def by_hand(F: EmpiricalFisher) -> Tensor:
    """`[n, P]`, float64: the gradients of rounded factors, written out."""
    rows = []
    for batches in F.gradients()._all().values():
        one = []
        for uses in batches:
            g = 0
            for use in uses:
                if isinstance(use, Direct):
                    g = g + use.g_Bpq.double()
                    continue
                left = torch.nn.functional.one_hot(use.ids_BT, use.rows) if isinstance(use, Lookup) else use.left_BTp
                g = g + torch.einsum("btp,btq->bpq", left.bfloat16().double(), use.right_BTq.bfloat16().double())
            assert isinstance(g, Tensor)
            one.append(g.flatten(1))
        rows.append(torch.cat(one))
    return torch.cat(rows, dim=1)


@pytest.mark.parametrize("ghosts", [True, False])
@pytest.mark.parametrize("family", ["opt", "gpt2", "llama"])
def test_products_are_those_of_the_rounded_factors(family: str, ghosts: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    F = EmpiricalFisher(build(family, dtype=torch.float32), batched(examples(), (3, 2)))
    gradients, G_nP = F.gradients(factors="bfloat16"), by_hand(F)

    def chosen(captured: dict[str, Any]) -> set[str]:
        direct = {name for name, of in captured.items() if any(isinstance(use, Direct) for uses in of for use in uses)}
        return captured.keys() - direct if ghosts else set()

    monkeypatch.setattr(gradients, "_ghost_is_cheaper", chosen)
    v, c = (torch.randn(size, generator=torch.Generator().manual_seed(size)) for size in (F.size, len(G_nP)))
    named = F.own_form(v)
    K_nn, w_n = gradients.gram(named)
    assert w_n is not None
    assert relative(K_nn, G_nP @ G_nP.T) < 1e-6
    assert relative(w_n, G_nP @ v.double()) < 1e-5
    assert relative(gradients.project(named), G_nP @ v.double()) < 1e-5
    adjoint = torch.cat([tensor.flatten() for tensor in gradients.adjoint(c).values()])
    assert relative(adjoint.double(), G_nP.T @ c.double()) < 1e-6
    matrix = gradients.matrix()
    assert matrix.dtype == torch.float32
    assert relative(matrix.double(), G_nP) < 1e-6
    assert 1e-4 < gradients.check() < 2 * HALF_UNIT  # which compares with plain differentiation


def test_an_entry_is_wrong_by_half_a_unit_of_each_factor() -> None:
    F64 = EmpiricalFisher(build("opt"), batched(examples(), (5,)))
    exact = F64.gradients().matrix()
    found = EmpiricalFisher(build("opt", dtype=torch.float32), batched(examples(), (5,))).gradients(factors="bfloat16").matrix()
    sizes = torch.cat(
        [
            sum(
                torch.einsum("btp,btq->bpq", use.left_BTp.abs(), use.right_BTq.abs())
                if isinstance(use, Outer)
                else replace(use, right_BTq=use.right_BTq.abs()).block(0, use.rows)
                if isinstance(use, Lookup)
                else use.g_Bpq.abs()
                for use in uses
            ).flatten(1)
            for (uses,) in F64.gradients()._all().values()
        ],
        dim=1,
    )
    wrong = (found - exact).abs()
    assert (wrong <= (2 * HALF_UNIT + HALF_UNIT**2) * sizes + 1e-5).all()
    assert 1e-4 < relative(found.double(), exact) < HALF_UNIT


def test_a_tensor_that_is_shared_stays_shared_and_takes_half() -> None:
    x, g = torch.randn(2, 3, 4), torch.randn(2, 3, 5)
    uses = rounded({"q": [Outer(g, x)], "k": [Outer(g.clone(), x)], "bias": [Direct(x)]})
    (q,), (k,), (bias,) = uses.values()
    assert isinstance(q, Outer)
    assert isinstance(k, Outer)
    assert q.right_BTq is k.right_BTq
    assert q.right_BTq.untyped_storage().nbytes() == 2 * x.numel()
    assert bias.tensors[0] is x


def true_residual(model: Any, batches: Any, solver: Solver, x: Tensor, v: Tensor) -> float:
    """By float64: of the whole Fisher, or of its blocks."""
    F = EmpiricalFisher(model, batches, "*fc1*", precision="float64")
    if isinstance(solver, Woodbury):
        back = F @ x.double() + solver.damping * x.double()
    else:
        assert isinstance(solver, Block)
        back = solve(F, x.double(), Block(solver.damping, width=solver.width), exponent=1.0).value
    return float((v.double() - back).norm() / v.double().norm())


@pytest.mark.parametrize("damping", [pytest.param(1e-2, marks=pytest.mark.nightly), 1e-3])
@pytest.mark.parametrize("solver", SOLVERS)
def test_the_residual_is_the_true_one(solver: type[Solver], damping: float) -> None:
    model, batches = parts((6, 6, 4))
    F, rough = EmpiricalFisher(model, batches, "*fc1*"), solver(damping, factors="bfloat16")
    v = torch.cat([g.flatten() for g in F.adjoint(torch.full((16,), 1 / 16)).values()])
    once = solve(F, v, rough, tolerance=1.0)
    assert once.iterations == 0
    assert once.residual == pytest.approx(true_residual(model, batches, rough, once.value, v), rel=0.02)
    assert once.residual > 10 * solve(F, v, solver(damping), tolerance=1.0).residual  # what is seen is the rounding
    refined = solve(F, v, rough)
    assert refined.residual <= 3e-5
    assert true_residual(model, batches, rough, refined.value, v) <= 3.1e-5


def test_where_refinements_do_not_help_the_solve_says_so() -> None:
    """A damping far below the rounding of the largest eigenvalue."""
    model, batches = parts((8, 8))
    F = EmpiricalFisher(model, batches)
    with pytest.raises(NotConvergedError):
        solve(F, F.adjoint(torch.ones(16)), Woodbury(1e-4, factors="bfloat16"), tolerance=1e-7)


@pytest.mark.parametrize(
    ("solver", "sizes", "options"),
    [
        (Woodbury, (16,), {}),
        (Woodbury, (2,) * 8, {}),
        (Woodbury, (6, 6, 4), {"keep": "nothing", "passes": 3}),
        (Block, (6, 6, 4), {}),
    ],
    ids=str,
)
def test_the_plan_is_within_a_fifth_of_what_is_counted(
    solver: type[Solver], sizes: tuple[int, ...], options: dict[str, Any]
) -> None:
    model, batches = parts(sizes)
    F, chosen = EmpiricalFisher(model, batches), solver(100.0, factors="bfloat16", **options)
    planned = plan(F, chosen)
    solution = solve(F, torch.randn(F.size, generator=torch.Generator().manual_seed(0)), chosen, tolerance=1.0)
    assert planned.peak_memory_bytes == pytest.approx(solution.peak_memory_bytes, rel=0.2)
    assert planned.gradient_evaluations == pytest.approx(solution.gradient_evaluations, rel=0.1)


def test_kept_factors_take_half() -> None:
    model, batches = parts((2,) * 8)
    F = EmpiricalFisher(model, batches)

    def kept(factors: str) -> int:
        storages = {
            (storage := tensor.untyped_storage())._cdata: storage.nbytes()
            for of in F.gradients(factors=factors)._all().values()
            for uses in of
            for use in uses
            if not isinstance(use, Direct)
            for tensor in use.tensors
            if tensor.is_floating_point()
        }
        return sum(storages.values())

    full = kept("float32")
    assert kept("bfloat16") == pytest.approx(full / 2, rel=0.02)
    peaks = [plan(F, Woodbury(1.0, factors=factors)).peak_memory_bytes for factors in ("float32", "bfloat16")]
    assert peaks[1] < peaks[0]


def test_refusals() -> None:
    F = EmpiricalFisher(build("opt", dtype=torch.float32), batched(examples(), (5,)))
    v = torch.ones(F.size)
    with pytest.raises(InputError, match="unknown value of factors 'half'; choose one of: float32, bfloat16"):
        F.gradients(factors="half")
    with pytest.raises(InputError, match="leave out keep='gradients'"):
        solve(F, v, Woodbury(1.0, keep="gradients", factors="bfloat16"))
    with pytest.raises(InputError, match=r"precision='float64'"):
        EmpiricalFisher(build("opt"), batched(examples(), (5,))).gradients(factors="bfloat16")
    for solver in SOLVERS:
        with pytest.raises(InputError, match=r"gives the inverse only, not the power -0\.5"):
            solve(F, v, solver(1.0, factors="bfloat16"), exponent=-0.5)
    with pytest.raises(InputError, match="factors are for an EmpiricalFisher, not for a GaussNewton"):
        solve(GaussNewton(F.model, F.batches), v, Block(1.0, factors="bfloat16"))
    assert "factors='bfloat16'" in str(plan(F, Woodbury(1.0, factors="bfloat16")))
