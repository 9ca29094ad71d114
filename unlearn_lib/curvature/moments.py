"""The second moments of the parameters' factored gradients, and the eigenvectors of their K-FAC blocks, which are made from them.

A use of a p x q parameter has two moments, L = sum left left^T and R = sum right right^T over its positions. Shape suffixes: B
sequences, T positions, p x q a parameter, s one of its sides,
R rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from unlearn_lib.curvature.positions import Positions, mask
from unlearn_lib.curvature.symmetric import panels
from unlearn_lib.curvature.uses import Direct, Lookup, Use, as_matrix, materialise, place_of

PANELS, NARROWEST = 4, 256
"""A moment is formed by at most so many panels of rows, each at least so high: texts have few positions beside its size."""
WIDE = 1024
"""Sides up to this are decomposed in float64, which takes two to three times as long. In float32 the inverse that is applied has relative
errors of 3e-4 at 1e-2 of the mean diagonal as damping, in float64 1e-5, which is what moments in float32 leave."""


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


class SideMoment(ABC):
    """The second moment of one side of a use, a sum over positions."""

    values: Tensor

    @abstractmethod
    def add(self, x_Rs: Tensor) -> None:
        """Count more rows, which may be overwritten."""

    @abstractmethod
    def trace(self) -> Tensor:
        """`[]`, float64: the sum of the diagonal."""

    @abstractmethod
    def matrix(self) -> Tensor:
        """`[s, s]`, in float64."""

    @abstractmethod
    def diagonal_in(self, U_ss: Tensor | None) -> Tensor:
        """`[s]`: the diagonal in the basis U, in float64; None stands for the identity."""

    @abstractmethod
    def spectrum(self) -> tuple[Tensor, Tensor | None]:
        """`([s], [s, s])`: eigenvalues, none below zero, and eigenvectors; None stands for the identity.

        A full moment is replaced by them."""


class FullMoment(SideMoment):
    """A moment of which all is known, `[s, s]`.

    With `exact` it is kept in float64, since tokens that are as frequent have nearly equal eigenvalues, whose eigenvectors turn with the
    rounding, and the correction's eigenvalues with them. K-FAC's own block does not depend on how they turn, so that the factors' format
    and the lower half are enough; several sides may share it.
    """

    def __init__(self, size: int, like: Tensor, *, exact: bool) -> None:
        self.exact = exact
        self.values = like.new_zeros(size, size, dtype=torch.float64 if exact else like.dtype)
        self._spectrum: tuple[Tensor, Tensor] | None = None

    def copy(self) -> FullMoment:
        """The same moment, which then goes its own way."""
        twin = FullMoment(0, self.values, exact=self.exact)
        twin.values = self.values.clone()
        return twin

    def add(self, x_Rs: Tensor) -> None:
        if self.exact:
            x_Rs = x_Rs.double()
            self.values += x_Rs.T @ x_Rs
            return
        for start, stop in moment_panels(len(self.values)):
            self.values[start:stop, :stop].addmm_(x_Rs[:, start:stop].T, x_Rs[:, :stop])

    def trace(self) -> Tensor:
        return self.values.trace().double()

    def matrix(self) -> Tensor:
        if self.exact:
            return self.values
        lower = self.values.double().tril_()
        return lower.add_(lower.tril(-1).T)

    def diagonal_in(self, U_ss: Tensor | None) -> Tensor:
        M_ss = self.matrix()
        return M_ss.diagonal() if U_ss is None else (U_ss * (M_ss @ U_ss)).sum(0)

    def spectrum(self) -> tuple[Tensor, Tensor]:
        if self._spectrum is None:
            like, wide = self.values, self.values.double() if len(self.values) <= WIDE else self.values
            self.values = like.new_empty(0, 0)
            l_s, U_ss = torch.linalg.eigh(wide)  # reads the lower half
            self._spectrum = l_s.clamp_min(0).to(like), U_ss.to(like)
        return self._spectrum


class DiagonalMoment(SideMoment):
    """A moment of which the diagonal alone is kept, `[s]`, in float64, because the side is too long, or its rows are looked up.

    With `exact` the sum of a batch is in float64, too.
    """

    def __init__(self, size: int, like: Tensor, *, exact: bool) -> None:
        self.exact = exact
        self.values = like.new_zeros(size, dtype=torch.float64)

    def add(self, x_Rs: Tensor) -> None:
        x_Rs = x_Rs.double() if self.exact else x_Rs
        self.values += x_Rs.square_().sum(0)

    def trace(self) -> Tensor:
        return self.values.sum()

    def matrix(self) -> Tensor:
        return self.values.diag()

    def diagonal_in(self, U_ss: Tensor | None) -> Tensor:
        return self.values if U_ss is None else self.values @ U_ss.square()

    def spectrum(self) -> tuple[Tensor, None]:
        return self.values, None


Side = tuple[str, int, int]
"""A parameter, the number of the use, and which side of it: 0 for the left one."""


class Moments:
    """The moments of all parameters: of both sides of each of their uses, or the diagonal of their entries, where they have no sides.

    Args:
        params: The parameters.
        max_side: Of a longer side the diagonal alone is kept.
        exact: In float64, every side by itself. Otherwise in the factors' own format, by half, and once for all products that have the
            same input (queries, keys and values).
    """

    def __init__(self, params: Mapping[str, Tensor], max_side: int, *, exact: bool) -> None:
        self.params, self.max_side, self.exact = params, max_side, exact
        self.sides: dict[Side, SideMoment] = {}
        self.positions = dict.fromkeys(params, 0.0)
        self.uses = dict.fromkeys(params, 0)
        self.entries: dict[str, Tensor] = {}

    def add(self, uses_by_name: Mapping[str, Sequence[Use]], positions: Positions) -> None:
        """Count the uses in one batch."""
        groups: dict[Hashable, list[tuple[Side, Tensor]]] = {}
        for name, uses in uses_by_name.items():
            factored = [use for use in uses if not isinstance(use, Direct)]
            if len(factored) < len(uses):
                masked = [mask(use, positions.heard_BT) for use in uses]
                part = materialise(masked, 0, len(as_matrix(self.params[name]))).double().square().sum(0)
                self.entries[name] = part if name not in self.entries else self.entries[name] + part
                continue
            self.positions[name] += positions.number(factored[0])
            self.uses[name] = max(self.uses[name], len(factored))
            for number, use in enumerate(factored):
                if isinstance(use, Lookup):
                    self._diagonal((name, number, 0)).values += positions.counts(use)
                else:
                    self._sort((name, number, 0), use.left_BTp, groups)
                self._sort((name, number, 1), use.right_BTq, groups)
        holders = Counter(id(moment) for moment in self.sides.values())
        for found in groups.values():
            x_Rs = positions.rows(found[0][1])
            if x_Rs.shape[1] > self.max_side:
                self._diagonal(found[0][0]).add(x_Rs)
            else:
                self._full([side for side, _ in found], holders).add(x_Rs)

    def _sort(self, side: Side, x_BTs: Tensor, groups: dict[Hashable, list[tuple[Side, Tensor]]]) -> None:
        """Put sides together that have been the same so far and are the same tensor now."""
        alone = self.exact or x_BTs.shape[-1] > self.max_side
        same = side if alone else (id(self.sides.get(side)), place_of(x_BTs))
        groups.setdefault(same, []).append((side, x_BTs))

    def _diagonal(self, side: Side) -> SideMoment:
        if side not in self.sides:
            self.sides[side] = DiagonalMoment(self._size(side), self.params[side[0]], exact=self.exact)
        return self.sides[side]

    def _full(self, sides: list[Side], holders: Counter[int]) -> SideMoment:
        """The moment that these sides share with no other."""
        moment = self.sides.get(sides[0])
        if moment is None:
            moment = FullMoment(self._size(sides[0]), self.params[sides[0][0]], exact=self.exact)
        elif holders[id(moment)] > len(sides):
            assert isinstance(moment, FullMoment)
            holders[id(moment)] -= len(sides)
            moment = moment.copy()
        self.sides.update(dict.fromkeys(sides, moment))
        return moment

    def _size(self, side: Side) -> int:
        return as_matrix(self.params[side[0]]).shape[side[2]]

    def eigen(self) -> dict[str, Eigen]:
        """Every parameter's block in its eigenvectors. The moments are dropped one by one as they are used, and can be used once."""
        return {name: self.eigen_of(name) for name in self.params}

    def eigen_of(self, name: str) -> Eigen:
        """K-FAC's block sum_u L_u (x) R_u / N: eigenvectors of its partial traces, and its diagonal in them (one use: eigenvalues)."""
        like = self.params[name]
        if name in self.entries:
            return Eigen(None, None, self.entries.pop(name).to(like))
        both = [[self.sides.pop((name, number, place)) for number in range(self.uses[name])] for place in (0, 1)]
        N = self.positions[name] or 1.0  # where the model has not used it everything is zero
        if not self.exact and len(both[0]) == 1:
            (l_p, left_pp), (r_q, right_qq) = (side.spectrum() for (side,) in both)
            return Eigen(left_pp, right_qq, l_p.to(like).outer(r_q.to(like)).div_(N))
        traces = [[moment.trace() for moment in side] for side in both]
        vectors = [
            None if as_matrix(like).shape[place] > self.max_side else _vectors(side, traces[1 - place])
            for place, side in enumerate(both)
        ]
        sides = [[moment.diagonal_in(U) for moment in side] for side, U in zip(both, vectors, strict=True)]
        del both
        values_pq = reduce(Tensor.add_, (left_p.outer(right_q) for left_p, right_q in zip(*sides, strict=True)))
        left_pp, right_qq = (None if U is None else U.to(like) for U in vectors)
        return Eigen(left_pp, right_qq, values_pq.div_(N).clamp_min_(0).to(like))


def _vectors(side: Sequence[SideMoment], weights: Sequence[Tensor]) -> Tensor | None:
    """The eigenvectors of one side's partial trace: of its moments, times the other sides' traces."""
    if all(isinstance(moment, DiagonalMoment) for moment in side):
        return None
    parts = (weight * moment.matrix() for moment, weight in zip(side, weights, strict=True))
    U: Tensor = torch.linalg.eigh(reduce(Tensor.add_, parts))[1]
    return U


def moment_panels(size: int) -> list[tuple[int, int]]:
    """`(start, stop)` of the panels of rows by which the lower half of a moment is formed, see `panels`."""
    return panels(size, PANELS, NARROWEST)
