r"""Per-sequence gradients in factored form: what one use of a parameter in a model contributes to every sequence's gradient.

A parameter is seen as a matrix `[p, q]` (its first dimension, and the rest). A matrix product contributes
g_i = sum_t left_it right_it^T: its input and the gradient of its output, or the other way round; an embedding contributes
the same with a one-hot left factor. Everything else (biases, norms) is small and kept as it is. A parameter with several uses (tied
embeddings) has the sum of them as its gradient, so products of gradients are formed after adding. Shape suffixes: B
sequences, T positions, p x q the parameter, r some of its rows.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Outer:
    """g_i = sum_t left_it right_it^T, from `left_BTp` and `right_BTq`."""

    left_BTp: Tensor
    right_BTq: Tensor

    def block(self, start: int, stop: int) -> Tensor:
        """`[B, r, q]`: rows start to stop of every sequence's gradient. FLOPs: 2 B T r q."""
        return torch.bmm(wide(self.left_BTp[..., start:stop]).mT, wide(self.right_BTq))

    def project(self, v_pq: Tensor) -> Tensor:
        """`[B]`: <g_i, v>. FLOPs: 2 B T p q."""
        return ((wide(self.left_BTp) @ v_pq) * self.right_BTq).sum((1, 2))

    def adjoint(self, c_B: Tensor) -> Tensor:
        """`[p, q]`: sum_i c_i g_i. FLOPs: 2 B T p q."""
        scaled_BTq = self.right_BTq * c_B[:, None, None]
        return wide(self.left_BTp).flatten(0, 1).T @ scaled_BTq.flatten(0, 1)

    def left_products(self, other: Outer | Lookup) -> Tensor:
        """`[BT, CS]`: the inner products of the left factors with those of another use."""
        if isinstance(other, Lookup):
            return self.left_BTp.flatten(0, 1)[:, other.ids_BT.flatten()]
        return wide(self.left_BTp).flatten(0, 1) @ wide(other.left_BTp).flatten(0, 1).T

    def of(self, start: int, stop: int) -> Outer:
        """The use of sequences start to stop."""
        return Outer(self.left_BTp[start:stop], self.right_BTq[start:stop])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What is kept in memory."""
        return self.left_BTp, self.right_BTq


@dataclass(frozen=True)
class Order:
    """The positions of a lookup in the order of the rows that they look up, and these rows, on the host, in the same order."""

    places_R: Tensor
    rows_R: np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Lookup:
    """An embedding: row `ids_BT` of the parameter received the gradient `right_BTq`. With the `order` no block looks at the ids."""

    ids_BT: Tensor
    right_BTq: Tensor
    rows: int
    order: Order | None = None

    def block(self, start: int, stop: int) -> Tensor:
        """`[B, r, q]`: rows start to stop of every sequence's gradient."""
        (B, T), r = self.ids_BT.shape, stop - start
        order = self.order or orders([self.ids_BT])[0]
        first, last = np.searchsorted(order.rows_R, (start, stop)).tolist()
        places_R = order.places_R[first:last]
        rows_R = self.ids_BT.flatten()[places_R] - start + r * (places_R // T)
        right_Rq = wide(self.right_BTq.flatten(0, 1)[places_R])
        return right_Rq.new_zeros(B * r, right_Rq.shape[1]).index_add_(0, rows_R, right_Rq).view(B, r, -1)

    def project(self, v_pq: Tensor) -> Tensor:
        """`[B]`: <g_i, v>."""
        return (v_pq[self.ids_BT] * self.right_BTq).sum((1, 2))

    def adjoint(self, c_B: Tensor) -> Tensor:
        """`[p, q]`: sum_i c_i g_i."""
        scaled_BTq = self.right_BTq * c_B[:, None, None]
        g_pq = scaled_BTq.new_zeros(self.rows, self.right_BTq.shape[-1])
        return g_pq.index_add_(0, self.ids_BT.flatten(), scaled_BTq.flatten(0, 1))

    def left_products(self, other: Outer | Lookup) -> Tensor:
        """`[BT, CS]`: one where both looked up the same row."""
        if isinstance(other, Outer):
            return other.left_products(self).T
        return (self.ids_BT.flatten()[:, None] == other.ids_BT.flatten()).to(self.right_BTq)

    def of(self, start: int, stop: int) -> Lookup:
        """The use of sequences start to stop."""
        return Lookup(self.ids_BT[start:stop], self.right_BTq[start:stop], self.rows)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What is kept in memory."""
        return self.ids_BT, self.right_BTq


@dataclass(frozen=True)
class Direct:
    """Every sequence's gradient as it is, `g_Bpq`."""

    g_Bpq: Tensor

    def block(self, start: int, stop: int) -> Tensor:
        """`[B, r, q]`: rows start to stop of every sequence's gradient."""
        return self.g_Bpq[:, start:stop]

    def project(self, v_pq: Tensor) -> Tensor:
        """`[B]`: <g_i, v>."""
        return self.g_Bpq.flatten(1) @ v_pq.reshape(-1)

    def adjoint(self, c_B: Tensor) -> Tensor:
        """`[p, q]`: sum_i c_i g_i."""
        return (self.g_Bpq.flatten(1).T @ c_B).view(self.g_Bpq.shape[1:])

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What is kept in memory."""
        return (self.g_Bpq,)


Use = Outer | Lookup | Direct


def orders(ids: Sequence[Tensor]) -> list[Order]:
    """The orders of lookups of these rows, all in one copy to the host."""
    if not ids:
        return []
    ids, places = [one.flatten() for one in ids], [one.flatten().argsort(stable=True) for one in ids]
    rows = torch.cat([one[order] for one, order in zip(ids, places, strict=True)]).cpu().numpy()
    ends = np.cumsum([len(one) for one in ids])[:-1]
    return [Order(order, own) for order, own in zip(places, np.split(rows, ends), strict=True)]


def in_order(uses: Iterable[list[Use]]) -> None:
    """Give all lookups in these lists their orders, in one copy to the host."""
    found = [(of, place, use) for of in uses for place, use in enumerate(of) if isinstance(use, Lookup)]
    for (of, place, use), order in zip(found, orders([use.ids_BT for _, _, use in found]), strict=True):
        of[place] = replace(use, order=order)


def materialise(uses: Sequence[Use], start: int, stop: int) -> Tensor:
    """`[B, r, q]`: rows of every sequence's gradient, all uses added."""
    return reduce(torch.add, (use.block(start, stop) for use in uses))


def ghost_products(uses: Sequence[Outer | Lookup], others: Sequence[Outer | Lookup]) -> Tensor:
    """`[B, C]`: <g_i, h_j> without forming a gradient: sum_ts (left_it . left'_js)(right_it . right'_js), cross terms of uses included.

    FLOPs: 2 B T C S (p + q) for each pair of uses; memory: three matrices `[BT, CS]`.
    """
    return reduce(torch.add, (_pair_products(use, other) for use in uses for other in others))


def _pair_products(use: Outer | Lookup, other: Outer | Lookup) -> Tensor:
    (B, T, _), (C, S, _) = use.right_BTq.shape, other.right_BTq.shape
    rights = wide(use.right_BTq).flatten(0, 1) @ wide(other.right_BTq).flatten(0, 1).T
    return (use.left_products(other) * rights).view(B, T, C, S).sum((1, 3))


def wide(factor: Tensor) -> Tensor:
    """A factor in the format that products are formed in: float32 where it is kept in bfloat16, else its own."""
    return factor.float() if factor.dtype == torch.bfloat16 else factor


def place_of(x: Tensor) -> Hashable:
    """What two tensors share that are the same part of the same memory."""
    return x.untyped_storage()._cdata, x.storage_offset(), x.shape, x.stride()


def as_matrix(p: Tensor) -> Tensor:
    """A parameter as `[p, q]`: its first dimension, and the rest."""
    return p.reshape(p.shape[0] if p.ndim else 1, -1)
