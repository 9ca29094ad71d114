"""The second moments of one parameter's factored gradients, and the eigenvectors of its K-FAC block, which are made from them.

A use of a p x q parameter has two moments, L = sum left left^T and R = sum right right^T over its positions. Shape suffixes: B
sequences, T positions, p x q a parameter, s one of its sides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Self

import torch
from torch import Tensor

from unlearn_lib.curvature.uses import Direct, Lookup, Outer, Use, as_matrix, materialise


@dataclass(frozen=True)
class Eigen:
    """One parameter's block: U_L (x) U_R diag(values_pq) of it; None stands for the identity."""

    left_pp: Tensor | None
    right_qq: Tensor | None
    values_pq: Tensor

    def apply(self, v: Tensor, values_pq: Tensor) -> Tensor:
        """The block with other eigenvalues, times v."""
        v_pq = as_matrix(v)
        if self.left_pp is not None:
            v_pq = self.left_pp.T @ v_pq
        if self.right_qq is not None:
            v_pq = v_pq @ self.right_qq
        v_pq = v_pq * values_pq
        if self.left_pp is not None:
            v_pq = self.left_pp @ v_pq
        if self.right_qq is not None:
            v_pq = v_pq @ self.right_qq.T
        return v_pq.view_as(v)

    def diagonal(self) -> Tensor:
        """`[p, q]`"""
        values_pq = self.values_pq
        if self.left_pp is not None:
            values_pq = self.left_pp.square() @ values_pq
        if self.right_qq is not None:
            values_pq = values_pq @ self.right_qq.square().T
        return values_pq


@dataclass(frozen=True)
class SideMoment(ABC):
    """The second moment of one side of a use, in float64."""

    values: Tensor

    def plus(self, other: SideMoment) -> Self:
        """The moment over the positions of both; a side is of one kind in all batches."""
        return type(self)(self.values + other.values)

    @abstractmethod
    def trace(self) -> float:
        """The sum of the diagonal."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """`[s, s]`"""

    @abstractmethod
    def diagonal_in(self, U_ss: Tensor | None) -> Tensor:
        """`[s]`: the diagonal in the basis U; None stands for the identity."""


class FullMoment(SideMoment):
    """A moment of which all is known, `[s, s]`."""

    def trace(self) -> float:
        return float(self.values.trace())

    def matrix(self) -> Tensor:
        return self.values

    def diagonal_in(self, U_ss: Tensor | None) -> Tensor:
        return self.values.diagonal() if U_ss is None else (U_ss * (self.values @ U_ss)).sum(0)


class DiagonalMoment(SideMoment):
    """A moment of which the diagonal alone is kept, `[s]`, because the side is too long, or its rows are looked up."""

    def trace(self) -> float:
        return float(self.values.sum())

    def matrix(self) -> Tensor:
        return self.values.diag()

    def diagonal_in(self, U_ss: Tensor | None) -> Tensor:
        return self.values if U_ss is None else self.values @ U_ss.square()


class Moments:
    """The moments of one parameter: of both sides of each of its uses, or the diagonal of its entries, where it has no sides."""

    def __init__(self, like: Tensor, max_side: int) -> None:
        self.like, self.max_side = like, max_side
        self.sides: dict[tuple[int, int], SideMoment] = {}  # (use, side) -> moment
        self.positions = 0.0
        self.entries: Tensor | None = None

    def add(self, uses: Sequence[Use], heard_BT: Tensor) -> None:
        """Count the uses in one batch, at the positions that a loss depends on."""
        factored = [use for use in uses if not isinstance(use, Direct)]
        if len(factored) < len(uses):
            part = materialise(uses, 0, len(as_matrix(self.like))).double().square().sum(0)
            self.entries = part if self.entries is None else self.entries + part
            return
        heard = for_positions(heard_BT, factored[0])
        # positions of the text, or of virtual tokens
        self.positions += float(heard.sum()) / max(1, heard.shape[1] // heard_BT.shape[1])
        for number, use in enumerate(factored):
            if isinstance(use, Lookup):
                heard = for_positions(heard_BT, use)
                counts_p = torch.bincount(use.ids_BT.flatten(), heard.flatten().double(), minlength=use.rows)
                left: SideMoment = DiagonalMoment(counts_p)
            else:
                left = self._moment(use.left_BTp)
            for side, moment in enumerate((left, self._moment(use.right_BTq))):
                before = self.sides.get((number, side))
                self.sides[number, side] = moment if before is None else before.plus(moment)

    def _moment(self, x_BTs: Tensor) -> SideMoment:
        if x_BTs.shape[-1] > self.max_side:
            return DiagonalMoment(x_BTs.double().square().sum((0, 1)))
        # in float64, since tokens that are as frequent have nearly equal eigenvalues, whose eigenvectors turn with the rounding
        x = x_BTs.flatten(0, 1).double()
        return FullMoment(x.T @ x)

    def eigen(self) -> Eigen:
        """K-FAC's block sum_u L_u (x) R_u / N: eigenvectors of its partial traces, and its diagonal in them (one use: eigenvalues)."""
        if self.entries is not None:
            return Eigen(None, None, self.entries.to(self.like))
        numbers = range(len(self.sides) // 2)
        vectors = [
            self._vectors(side, [(self.sides[u, side], self.sides[u, 1 - side].trace()) for u in numbers]) for side in (0, 1)
        ]
        values_pq = sum(
            (self.sides[u, 0].diagonal_in(vectors[0]).outer(self.sides[u, 1].diagonal_in(vectors[1])) for u in numbers),
            start=torch.zeros((), dtype=torch.float64, device=self.like.device),
        )
        left, right = (None if U is None else U.to(self.like) for U in vectors)
        return Eigen(left, right, (values_pq / self.positions).clamp_min(0).to(self.like))

    def _vectors(self, side: int, weighted: list[tuple[SideMoment, float]]) -> Tensor | None:
        if (
            all(isinstance(moment, DiagonalMoment) for moment, _ in weighted)
            or as_matrix(self.like).shape[side] > self.max_side
        ):
            return None
        combined = [weight * moment.matrix() for moment, weight in weighted]
        U: Tensor = torch.linalg.eigh(reduce(torch.add, combined))[1]
        return U


def for_positions(heard_BT: Tensor, use: Outer | Lookup) -> Tensor:
    """`[B, S]` for the positions of a use: where heads and the like count as positions, each one of the text is several; virtual
    tokens stand before the text, and all of it depends on them."""
    (B, T), S = heard_BT.shape, use.right_BTq.shape[1]
    virtual = S % T
    return torch.cat([heard_BT.new_ones(B, virtual), heard_BT.repeat_interleave(S // T, dim=1)], 1)
