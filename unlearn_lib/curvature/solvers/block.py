r"""The operator's diagonal blocks of width B instead of the operator, each inverted (or raised to a power) in float64.

Blocks are those of `unlearn_lib.curvature.blocks`: every parameter is flattened and cut, and its last block is padded. A Fisher's
blocks are streamed: block k is (1/n) G_k^T G_k with G_k the n x B columns of the gradients. Shape suffixes: n sequences, c
columns, K blocks, B block width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from unlearn_lib.curvature.empirical_fisher import EmpiricalFisher
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.per_sequence import SequenceGradients
from unlearn_lib.curvature.rehearsal import Rehearsal
from unlearn_lib.curvature.solution import Reason
from unlearn_lib.curvature.solvers.by_gradients import ROUNDED_REFINEMENTS, GradientSolver, by_batches, refuse_rounded
from unlearn_lib.curvature.solvers.inverse import TOLERANCE, Inverse
from unlearn_lib.curvature.solvers.inverse_root import inverse_root
from unlearn_lib.curvature.vector import Vector, all_finite, axpy, norm, numbers, scale, zeros
from unlearn_lib.errors import InputError, NumericsError


@dataclass(frozen=True, kw_only=True)
class Block(GradientSolver):
    """Inverse and powers of the block diagonal: streamed for an `EmpiricalFisher`, from the dense matrix (small models) for others.

    Args:
        damping: lambda > 0.
        keep, passes, chunk: For a Fisher: what of the gradients is kept, see `SequenceGradients`.
        factors: For a Fisher: `"float32"`, or `"bfloat16"`, see `Woodbury`.
        width: The blocks' width B.

    Cost for a Fisher, in gradients of each text: 2/3, and for each application 1/3 and P B (2 n + B / 3) FLOPs; no P x B memory.
    A verified solve is one application; with rounded factors 1 gradient and 4 n P FLOPs more, and as much again and an application for
    each refinement.
    """

    name: ClassVar[str] = "block"

    width: int = 48

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width < 1 or self.damping == 0:
            raise InputError(
                f"blocks need a width of at least 1 and damping > 0, got width={self.width}, damping={self.damping}"
            )

    def prepare(self, operator: Operator) -> Inverse:
        if isinstance(operator, EmpiricalFisher):
            return BlockInverse(operator, self.damping, self.width, self.gradients(operator))
        if self.takes_gradients:
            raise InputError(f"keep, passes, chunk and factors are for an EmpiricalFisher, not for a {type(operator).__name__}")
        return BlockInverse(operator, self.damping, self.width, None)

    def cost(self, rehearsal: Rehearsal) -> tuple[float, float]:
        need, n, P = self.budget(rehearsal), rehearsal.risk.sequences, rehearsal.risk.size
        vector = P * rehearsal.risk.dtype.itemsize
        block = need.block + 8 * need.columns * (2 + 3 * self.width / n)  # in float64: columns, blocks and their factors
        flops = need.flops + 2 * n * P * self.width + rehearsal.witness_flops
        if self.factors != "float32":
            flops += need.again + rehearsal.capture.product_flops + 4 * n * P
            verifying = need.anew + (need.kept if self.keep == "activations" else 0)
            return max(need.taking, need.kept + block + 2 * vector, verifying), flops
        if self.keep == "gradients":
            return max(need.taking, need.kept + block + 3 * vector), flops + 3 * need.product
        if self.keep == "nothing":
            return max(need.taking, need.kept + block) + 2 * vector, flops
        return max(need.taking, need.kept + block + 2 * vector), flops


class BlockInverse(Inverse):
    """Inverse and powers of the block diagonal, from gradients or, without them, from the operator's dense matrix."""

    def __init__(self, operator: Operator, damping: float, width: int, gradients: SequenceGradients | None) -> None:
        super().__init__(operator, damping)
        self.width, self._gradients = width, gradients
        self._matrix: Tensor | None = None
        self._rounded = gradients is not None and gradients.factors != "float32"
        if self._rounded:
            self.most_refinements = ROUNDED_REFINEMENTS

    @property
    def system(self) -> str:
        return f"block diagonal (width {self.width}) of {super().system}"

    def power(self, v: Vector, exponent: float) -> Vector:
        if self._gradients is not None and self._rounded:
            refuse_rounded(self._gradients, exponent)
            if exponent == 1.0:  # the exact product, for the residual
                return axpy(self.damping, v, _block_product(self._gradients, v, self.width))
        return self._solve(v, exponent)[0]

    def run(self, v: Vector, exponent: float, tolerance: float | None) -> tuple[Vector, Reason, int, float]:
        """Solve and verify like every direct solver, but while a block is at hand; solved in float64, x needs no refinement.

        By rounded factors it is solved, verified and refined like by every other solver."""
        if self._rounded:
            return super().run(v, exponent, tolerance)
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
        by_factors = exponent == -1.0 or (abs(exponent) == 0.5 and self.device.type == "cuda")
        found = self._with(v, exponent, verify, by_factors=True) if by_factors else None
        if found is None:  # nearly no block has failed, but which of them have is asked once, after the last
            found = self._with(v, exponent, verify, by_factors=False)
        assert found is not None
        return found

    def _with(self, v: Vector, exponent: float, verify: bool, *, by_factors: bool) -> tuple[Vector, float] | None:
        """By Cholesky factors, where there is a way by them, or by eigenvalues. None where a block has no factor.

        Raises:
            NumericsError: An eigenvalue is not positive.
        """
        # where others find the blocks there are zeros, to which theirs are added
        x, squares, least, failed = zeros(self.params), list[Tensor](), list[Tensor](), list[Tensor]()
        for name, start, A_KBB in self._blocks():
            K, B, _ = A_KBB.shape
            v_KB1 = _cut(v[name], start, K, B)
            damped = Damped(A_KBB, self.damping, by_factors=by_factors)
            x_KB1 = damped.power(exponent, v_KB1)
            piece = x[name].view(-1)[start : start + K * B]
            piece.copy_(x_KB1.reshape(-1)[: len(piece)])
            if verify:  # x as it is returned, in its number format
                back_KB1 = damped.power(-exponent, _cut(x[name], start, K, B))
                squares.append((v_KB1 - back_KB1).square().sum())
            failed += damped.failed
            least += damped.least
        if self._gradients is None:  # every process has all blocks
            _check_positive(numbers(least))
            return None if sum(numbers(failed)) else (x, sum(numbers(squares)))
        ranks = self._gradients.risk.ranks
        _check_positive([number for one in ranks.told(numbers(least)) for number in one])
        if ranks.add_number(sum(numbers(failed)), self.device):
            return None
        return ranks.add(x), ranks.add_number(sum(numbers(squares)), self.device)

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


def _block_product(gradients: SequenceGradients, v: Vector, width: int) -> Vector:
    """The block diagonal of the Fisher, times v, by unrounded gradients of one batch after the other."""
    risk, product = gradients.risk, zeros(v)
    for one in by_batches(gradients):
        for name, start, g_nc in one.blocks(width):
            n, c = g_nc.shape
            g_nKB = torch.nn.functional.pad(g_nc, (0, -c % width)).view(n, -1, width)
            K = g_nKB.shape[1]
            inner_nK = torch.einsum("nkb,kb->nk", g_nKB, _cut(v[name], start, K, width).squeeze(2).to(g_nc))
            found_KB = torch.einsum("nkb,nk->kb", g_nKB, inner_nK / risk.sequences)
            product[name].view(-1)[start : start + c] += found_KB.reshape(-1)[:c]
    return risk.ranks.add(product)


def _cut(tensor: Tensor, start: int, K: int, B: int) -> Tensor:
    """`[K, B, 1]`, float64: K blocks from position `start`, the last one padded."""
    piece = tensor.reshape(-1)[start : start + K * B].double()
    return torch.nn.functional.pad(piece, (0, K * B - len(piece))).view(K, B, 1)


def _check_positive(least: list[float]) -> None:
    wrong = [number for number in least if not number > 0]
    if wrong:
        raise NumericsError(
            f"the smallest eigenvalue of a damped block is {min(wrong):.3g}; raise the damping by more than that"
        )


class Damped:
    """Blocks A + lambda I, and their powers. The eigenvalues, which powers other than 1 and -1 need, are found once.

    Nothing is asked of the device but the largest trace, for a root by factors; what is left to check is kept until the caller does.

    Args:
        A_KBB: The blocks, float64.
        damping: lambda.
        by_factors: Whether the inverse, and roots, are taken by Cholesky factors, and not by eigenvalues.

    Attributes:
        failed: Of each inverse that was taken, how many blocks have no Cholesky factor, so that it is not to be used.
        least: The smallest eigenvalue, damping included, once the eigenvalues are known.
    """

    def __init__(self, A_KBB: Tensor, damping: float, *, by_factors: bool = True) -> None:
        self.A_KBB, self.damping, self.by_factors = A_KBB, damping, by_factors
        self.failed, self.least = list[Tensor](), list[Tensor]()

    @cached_property
    def spectrum(self) -> tuple[Tensor, Tensor]:
        """`([K, B], [K, B, B])`: eigenvalues, damping included, and eigenvectors; NaN where a block is not finite."""
        try:
            s_KB, U_KBB = torch.linalg.eigh(self.A_KBB)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            if all_finite([self.A_KBB]):
                raise
            s_KB, U_KBB = (torch.full_like(part, torch.nan) for part in (self.A_KBB[..., 0], self.A_KBB))
        s_KB = s_KB + self.damping
        self.least.append(s_KB.min())
        return s_KB, U_KBB

    def power(self, exponent: float, v_KB1: Tensor) -> Tensor:
        """`[K, B, 1]`: (A + lambda I)^exponent v."""
        if exponent == 1.0:
            return self.A_KBB @ v_KB1 + self.damping * v_KB1
        if exponent == -1.0 and self.by_factors:
            eye = self.damping * torch.eye(self.A_KBB.shape[-1], dtype=self.A_KBB.dtype, device=self.A_KBB.device)
            factor, failed = torch.linalg.cholesky_ex(self.A_KBB + eye)
            self.failed.append(failed.count_nonzero())
            return torch.cholesky_solve(v_KB1, factor)
        if abs(exponent) == 0.5 and self.by_factors:
            root_KB1 = self._inverse_root(v_KB1)
            return root_KB1 if exponent < 0 else self.power(1.0, root_KB1)
        s_KB, U_KBB = self.spectrum
        x_KB1: Tensor = U_KBB @ (s_KB.unsqueeze(-1) ** exponent * (U_KBB.mT @ v_KB1))
        return x_KB1

    def _inverse_root(self, v_KB1: Tensor) -> Tensor:
        """(A + lambda I)^(-1/2) v of blocks without negative eigenvalues; of others their factors fail."""
        A_KBB = self.A_KBB.clone()
        A_KBB.diagonal(dim1=-2, dim2=-1).add_(self.damping)
        largest = float(A_KBB.diagonal(dim1=-2, dim2=-1).sum(-1).max())
        if not math.isfinite(largest):
            return torch.full_like(v_KB1, torch.nan)
        x_KB1, failed = inverse_root(A_KBB, v_KB1, self.damping, largest)
        self.failed.append(failed)
        return x_KB1
