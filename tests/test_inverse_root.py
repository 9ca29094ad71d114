"""Inverse roots by Cholesky factorisations, against eigenvectors and closed forms."""

import math

import pytest
import torch
from dense import batched, build, examples

from unlearn_lib.curvature.empirical_fisher import EmpiricalFisher
from unlearn_lib.curvature.solvers.block import Block, BlockInverse
from unlearn_lib.curvature.solvers.inverse_root import inverse_root, nodes
from unlearn_lib.curvature.solving import solve


def matrices(condition: float, K: int = 4, B: int = 12) -> torch.Tensor:
    """`[K, B, B]`, with eigenvalues from 1 / condition to 1."""
    generator = torch.Generator().manual_seed(0)
    Q_KBB, _ = torch.linalg.qr(torch.randn(K, B, B, generator=generator, dtype=torch.float64))
    s_B = torch.logspace(-math.log10(condition), 0, B, dtype=torch.float64)
    return Q_KBB @ (s_B.unsqueeze(-1) * Q_KBB.mT)


@pytest.mark.parametrize("condition", [1.0, 10.0, 1e3, 1e6])
def test_the_sum_is_the_inverse_root(condition: float) -> None:
    A_KBB, v_KB1 = matrices(condition), torch.ones(4, 12, 1, dtype=torch.float64)
    s_KB, U_KBB = torch.linalg.eigh(A_KBB)
    expected = U_KBB @ (s_KB.unsqueeze(-1) ** -0.5 * (U_KBB.mT @ v_KB1))
    found, failed = inverse_root(A_KBB, v_KB1, 1 / condition, 1.0)
    assert int(failed) == 0
    assert float((found - expected).norm() / expected.norm()) < 1e-15 * max(condition, 100)


@pytest.mark.parametrize(("m", "M"), [(1.0, 1.0), (2.0, 50.0), (1e-8, 1e-3)])
def test_the_weights_integrate_numbers(m: float, M: float) -> None:
    terms = nodes(m, M)
    for a in (m, math.sqrt(m * M), M):
        assert sum(weight / (a + shift) for shift, weight in terms) == pytest.approx(a**-0.5, rel=1e-11)


def test_a_matrix_that_is_not_positive_has_none() -> None:
    A_KBB = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64)).unsqueeze(0)
    _, failed = inverse_root(A_KBB.expand(3, 2, 2), torch.ones(3, 2, 1, dtype=torch.float64), 0.1, 1.0)
    assert int(failed) == 3


def test_blocks_take_it_for_both_roots(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU by the function that a GPU uses: the same answer as by eigenvectors, and its residual is small."""
    F = EmpiricalFisher(build("opt"), batched(examples(), (3, 2)))
    v = torch.randn(F.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = solve(F, v, Block(damping=1e-3, width=5), exponent=-0.5).value

    plain = BlockInverse._with
    monkeypatch.setattr(BlockInverse, "_with", lambda self, *given, by_factors: plain(self, *given, by_factors=True))
    found = solve(F, v, Block(damping=1e-3, width=5), exponent=-0.5)
    assert found.residual < 1e-12
    assert float((found.value - expected).norm() / expected.norm()) < 1e-11
