r"""The operator's diagonal blocks of width B instead of the operator, each inverted (or raised to a power) in float64.

Blocks as of `unlearn_lib.curvature.blocks`: every parameter flattened and cut, the last block padded. A Fisher's blocks are
streamed: block k is (1/n) G_k^T G_k with G_k the n x B columns of the gradients. Shape suffixes: n sequences, c columns, K
blocks, B block width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.curvature.empirical_fisher import EmpiricalFisher
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.solution import Reason
from unlearn_lib.curvature.solvers.base import TOLERANCE, Inverse
from unlearn_lib.curvature.vector import Vector, norm, numbers, scale
from unlearn_lib.errors import InputError, NumericsError


class Block(Inverse):
    """Inverse and powers of the block diagonal.

    Args:
        operator: The operator; streamed for an `EmpiricalFisher`, from the dense matrix (small models) for others.
        damping: lambda > 0.
        width: The blocks' width B.
        options: For a Fisher, as of `SequenceGradients`.

    Cost for a Fisher: 2/3 gradient, and for each application 1/3 gradient and P B (2 n + B / 3) FLOPs; no P x B memory. A
    verified solve is one application.
    """

    def __init__(self, operator: Operator, damping: float, *, width: int = 48, **options: Any) -> None:
        super().__init__(operator, damping)
        if width < 1 or damping == 0:
            raise InputError(f"blocks need a width of at least 1 and damping > 0, got width={width}, damping={damping}")
        self.width = width
        self._gradients = operator.gradients(**options) if isinstance(operator, EmpiricalFisher) else None
        self._matrix: Tensor | None = None
        if self._gradients is None and options:
            raise InputError(f"{', '.join(options)}: these options are for an EmpiricalFisher")

    @property
    def system(self) -> str:
        return f"block diagonal (width {self.width}) of {super().system}"

    def power(self, v: Vector, exponent: float) -> Vector:
        return self._solve(v, exponent)[0]

    def run(self, v: Vector, exponent: float, tolerance: float | None) -> tuple[Vector, Reason, int, float]:
        """As every direct solver, but verified while a block is at hand; solved in float64, x needs no refinement."""
        length = norm(v)
        if length == 0:
            return scale(0.0, v), Reason.CONVERGED, 0, 0.0
        x, squared = self._solve(v, exponent, verify=True)
        residual = math.sqrt(squared) / length
        if not math.isfinite(residual):
            return x, Reason.BREAKDOWN, 0, residual
        return x, Reason.CONVERGED if residual <= (tolerance or TOLERANCE[self.dtype]) else Reason.PRECISION, 0, residual

    def _solve(self, v: Vector, exponent: float, verify: bool = False) -> tuple[Vector, float]:
        """`(x, |v - (A + lambda I)^-exponent x|^2)`, the second only where it is asked for."""
        x, squares = {name: torch.empty_like(p) for name, p in self.params.items()}, list[Tensor]()
        for name, start, A_KBB in self._blocks():
            K, B, _ = A_KBB.shape
            v_KB1 = _cut(v[name], start, K, B)
            x_KB1 = _power(A_KBB, self.damping, exponent, v_KB1)
            piece = x[name].view(-1)[start : start + K * B]
            piece.copy_(x_KB1.reshape(-1)[: len(piece)])
            if verify:  # x as it is returned, in its number format
                back_KB1 = _power(A_KBB, self.damping, -exponent, _cut(x[name], start, K, B))
                squares.append((v_KB1 - back_KB1).square().sum())
        return x, sum(numbers(squares))

    def _blocks(self) -> Iterator[tuple[str, int, Tensor]]:
        """`(name, start, A_KBB)` in float64."""
        if self._gradients is not None:
            for name, start, g_nc in self._gradients.blocks(self.width):
                n, c = g_nc.shape
                g_nKB = torch.nn.functional.pad(g_nc.double(), (0, -c % self.width)).view(n, -1, self.width)
                yield name, start, torch.einsum("nkb,nkc->kbc", g_nKB, g_nKB) / n
            return
        if self._matrix is None:
            self._matrix = self.of.as_matrix().double()
        first = 0
        for name, p in self.params.items():
            for start in range(0, p.numel(), self.width):
                stop = min(start + self.width, p.numel())
                A = self._matrix[first + start : first + stop, first + start : first + stop]
                yield name, start, torch.nn.functional.pad(A, (0, self.width - len(A)) * 2).unsqueeze(0)
            first += p.numel()


def _cut(tensor: Tensor, start: int, K: int, B: int) -> Tensor:
    """`[K, B, 1]`, float64: K blocks from position `start`, the last one padded."""
    piece = tensor.reshape(-1)[start : start + K * B].double()
    return torch.nn.functional.pad(piece, (0, K * B - len(piece))).view(K, B, 1)


def _power(A_KBB: Tensor, damping: float, exponent: float, v_KB1: Tensor) -> Tensor:
    if exponent == 1.0:
        return A_KBB @ v_KB1 + damping * v_KB1
    if exponent == -1.0:
        eye = damping * torch.eye(A_KBB.shape[-1], dtype=A_KBB.dtype, device=A_KBB.device)
        factor, failed = torch.linalg.cholesky_ex(A_KBB + eye)
        if not failed.any():
            return torch.cholesky_solve(v_KB1, factor)
    s_KB, U_KBB = torch.linalg.eigh(A_KBB)
    s_KB = s_KB + damping
    if not s_KB.min() > 0:
        raise NumericsError(
            f"the smallest eigenvalue of a damped block is {float(s_KB.min()):.3g}; raise the damping by more than that"
        )
    x_KB1: Tensor = U_KBB @ (s_KB.unsqueeze(-1) ** exponent * (U_KBB.mT @ v_KB1))
    return x_KB1
