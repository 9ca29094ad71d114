"""Symmetric products by panels: the numbers of the whole product, for about half of its FLOPs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from dense import VOCABULARY, batched, build, relative
from torch import Tensor

from unlearn_lib.curvature import EmpiricalFisher, SequenceGradients, Woodbury, plan, solve
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.symmetric import add_lower, formed, mirror, panels
from unlearn_lib.curvature.uses import Direct
from unlearn_lib.data.batches import Example

SHARES = {64: 1.0, 127: 1.0, 128: 3 / 4, 256: 5 / 8, 512: 9 / 16, 4096: 9 / 16}
"""Of the whole product: (k + 1) / 2k for k panels."""


@pytest.mark.parametrize(("size", "share"), SHARES.items())
def test_panels_cover_the_lower_half_once(size: int, share: float) -> None:
    assert formed(size) == share * size**2
    edges = [start for start, _ in panels(size)]
    assert [0, *(stop for _, stop in panels(size))] == [*edges, size]


@pytest.mark.parametrize("n", [1, 5, 129, 300])
def test_the_product_is_that_of_float64(n: int) -> None:
    x_nc = torch.randn(n, 40, generator=torch.Generator().manual_seed(0))
    total_nn = torch.zeros(n, n, dtype=torch.float64)
    with Meter() as meter:
        for part in x_nc.split(15, dim=1):
            add_lower(total_nn, part)
    assert meter.flops == 2 * 40 * formed(n)
    assert mirror(total_nn) is total_nn
    assert relative(total_nn, x_nc.double() @ x_nc.double().T) < 1e-6  # products in float32
    assert torch.equal(total_nn, total_nn.T)


def test_above_the_diagonal_nothing_counts() -> None:
    x_nc = torch.randn(200, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    total_nn = torch.zeros(200, 200, dtype=torch.float64)
    add_lower(total_nn, x_nc)
    total_nn[torch.ones(200, 200, dtype=torch.bool).triu(1)] = torch.nan
    assert relative(mirror(total_nn), x_nc @ x_nc.T) < 1e-14


def sequences(number: int, T: int = 5) -> list[Example]:
    ids = torch.randint(1, VOCABULARY, (number, T), generator=torch.Generator().manual_seed(3)).tolist()
    return [Example(tuple(row), tuple(row)) for row in ids]


def ghosts(self: SequenceGradients, captured: dict[str, Any]) -> set[str]:
    return {name for name, batches in captured.items() if not any(isinstance(u, Direct) for uses in batches for u in uses)}


def no_ghosts(self: SequenceGradients, captured: dict[str, Any]) -> set[str]:
    return set()


@pytest.mark.parametrize("options", [{}, {"keep": "gradients"}, {"chunk": 5000}], ids=str)
@pytest.mark.parametrize("chosen", [ghosts, no_ghosts])
@pytest.mark.parametrize("sizes", [(150,), (100, 30, 20)], ids=str)
def test_the_gram_matrix_of_several_panels(
    sizes: tuple[int, ...], chosen: Callable[..., set[str]], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SequenceGradients, "_ghost_is_cheaper", chosen)
    model = build("gpt2")  # whose tied weights have two uses
    gradients = SequenceGradients(EmpiricalFisher(model, batched(sequences(sum(sizes)), sizes)), **options)
    G_nP, (K_nn, _) = gradients.matrix(), gradients.gram()
    assert relative(K_nn, G_nP @ G_nP.T) < 1e-12
    assert torch.equal(K_nn, K_nn.T)


def flops_of_gram(gradients: SequenceGradients) -> int:
    gradients.gram()  # which captures
    with Meter() as meter:
        gradients.gram()
    flops: int = meter.flops
    return flops


def test_the_flops_of_the_gram_matrix_fall_by_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SequenceGradients, "_ghost_is_cheaper", no_ghosts)
    F = EmpiricalFisher(build("opt"), batched(sequences(256), (256,)))
    gradients = SequenceGradients(F, keep="gradients")
    assert flops_of_gram(gradients) == 2 * formed(256) * F.size
    assert formed(256) == 5 / 8 * 256**2


def test_the_flops_of_ghost_products_fall_by_panels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SequenceGradients, "_ghost_is_cheaper", ghosts)
    T, (p, q) = 5, (4, 4)
    F = EmpiricalFisher(build("opt"), batched(sequences(104, T), (104,)), params="*q_proj.weight")
    # eight panels of 13 sequences
    assert flops_of_gram(SequenceGradients(F)) == 2 * (104 * T) ** 2 * (p + q) * 9 // 16


def test_the_plan_counts_panels() -> None:
    F = EmpiricalFisher(build("opt", dtype=torch.float32, vocabulary=400), batched(sequences(256), (128, 128)))
    solver = Woodbury(1.0, keep="gradients")  # of the kept gradients hardly anything but the Gram matrix costs
    planned, solution = plan(F, solver), solve(F, torch.ones(F.size), solver, throw=False)
    assert planned.gradient_evaluations == pytest.approx(solution.gradient_evaluations, rel=0.02)
    whole = F.texts_worth(2 * 256**2 * F.size)
    assert solution.gradient_evaluations > whole / 2
    assert whole - F.texts_worth(2 * formed(256) * F.size) > 0.1 * solution.gradient_evaluations


def test_the_dense_matrix_is_formed_by_half() -> None:
    F = EmpiricalFisher(build("opt"), batched(sequences(3), (3,)))
    G_nP: Tensor = F.gradients().matrix()
    with Meter() as meter:
        F.gradients().matrix()
    before = meter.flops
    with Meter() as meter:
        matrix = F.as_matrix()
    assert meter.flops - before == 2 * 3 * formed(F.size) < 0.7 * 2 * 3 * F.size**2
    assert relative(matrix, G_nP.T @ G_nP / 3) < 1e-14
