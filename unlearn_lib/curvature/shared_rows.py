"""Inner products and columns of per-sequence gradients whose rows lie in several processes.

No process ever holds all rows of all columns. The processes either send each other the factors of one parameter at a time, or, of one
block of columns for each of them, the rows. Shape suffixes: n sequences, c of one process, r rows of a p x q parameter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.curvature.symmetric import NARROWEST, panels
from unlearn_lib.curvature.uses import Lookup, Outer, Use, ghost_products
from unlearn_lib.ranks import Ranks, Share

Factored = Sequence[Sequence[Any]]
"""A parameter's uses in every batch, each of them with two factors."""
Form = tuple[type[Use], list[int], list[int], torch.dtype, int]
"""The kind of a use, the shapes and the number format of its factors, and the number of rows that a lookup chooses from."""


def own_columns(
    blocks: Iterator[tuple[int, int, Tensor]], n: int, ranks: Ranks, counts: Sequence[int]
) -> Iterator[tuple[int, int, Tensor]]:
    """Some of a parameter's blocks of columns with the rows of all processes: `(start, stop, g_nrq)`.

    The blocks are dealt out one by one, so that each process is given every `ranks.size`-th. All have to go through all blocks.

    Args:
        blocks: `(start, stop, g_crq)`, of this process's own sequences; the same blocks in every process.
        n: The sequences of all processes.
        ranks: The processes.
        counts: How many sequences every process has.
    """
    while dealt := list(islice(blocks, ranks.size)):
        pieces = [g_crq for _, _, g_crq in dealt]
        pieces += [pieces[0][:, :0]] * (ranks.size - len(dealt))
        start, stop, _ = dealt[ranks.rank] if ranks.rank < len(dealt) else (0, 0, None)
        g_nrq = pieces[0].new_empty(n, stop - start, pieces[0].shape[2])
        ranks.exchange(pieces, g_nrq.split(list(counts)))
        del dealt, pieces
        if stop > start:
            yield start, stop, g_nrq


def ghost_blocks(batches: Factored, like: Tensor, ranks: Ranks, share: Share) -> Iterator[tuple[slice, slice, Tensor]]:
    """Blocks of one parameter's Gram matrix, without forming a gradient: `(rows, columns, products)`, float64.

    All processes together give every number of its lower half once, and above the diagonal numbers that do not count. Each holds
    the factors of one other process at a time.

    Args:
        batches: The factors of this process's own sequences.
        like: A tensor of the factors' device.
        ranks, share: The processes, and the part of this one.
    """
    if batches:
        yield share.own, share.own, _own_products(batches)
    if ranks.size == 1:
        return
    said = ranks.told((share.own.start, share.own.stop, [[_form(use) for use in uses] for uses in batches]))
    for source, (start, stop, forms) in enumerate(said):
        sent = batches if source == ranks.rank else [[_empty(form, like) for form in of] for of in forms]
        others = [[_spread(use, ranks, source) for use in uses] for uses in sent]
        ahead = (source - ranks.rank) % ranks.size  # of each pair of processes one forms the products, and each has as many
        if batches and others and (0 < 2 * ahead < ranks.size or (2 * ahead == ranks.size and ranks.rank < source)):
            products = torch.cat([torch.cat([ghost_products(uses, of).double() for of in others], 1) for uses in batches])
            if start < share.own.start:
                yield share.own, slice(start, stop), products
            else:
                yield slice(start, stop), share.own, products.mT


def _own_products(batches: Factored) -> Tensor:
    """`[c, c]`: the lower half, and zeros or halves of squares above it."""
    edges = [0, *accumulate(len(uses[0].right_BTq) for uses in batches)]
    found_cc = torch.zeros(edges[-1], edges[-1], dtype=torch.float64, device=batches[0][0].right_BTq.device)
    for i, uses in enumerate(batches):
        rows = found_cc[edges[i] : edges[i + 1]]
        for j, others in enumerate(batches[:i]):
            rows[:, edges[j] : edges[j + 1]] = ghost_products(uses, others)
        B, T, _ = uses[0].right_BTq.shape
        for start, stop in panels(B, narrowest=-(-NARROWEST // max(1, T))):  # a sequence has a row for each of its tokens
            own, before = ([use.of(first, stop) for use in uses] for first in (start, 0))
            rows[start:stop, edges[i] : edges[i] + stop] = ghost_products(own, before)
    return found_cc


def _form(use: Outer | Lookup) -> Form:
    left, right = use.tensors
    return type(use), list(left.shape), list(right.shape), right.dtype, use.rows if isinstance(use, Lookup) else 0


def _empty(form: Form, like: Tensor) -> Outer | Lookup:
    kind, left, right, dtype, rows = form
    if kind is Lookup:
        return Lookup(like.new_empty(left, dtype=torch.long), like.new_empty(right, dtype=dtype), rows)
    return Outer(like.new_empty(left, dtype=dtype), like.new_empty(right, dtype=dtype))


def _spread(use: Outer | Lookup, ranks: Ranks, source: int) -> Outer | Lookup:
    """The use of one process, in all of them."""
    left, right = (ranks.spread(tensor.contiguous(), source) for tensor in use.tensors)
    return Lookup(left, right, use.rows) if isinstance(use, Lookup) else Outer(left, right)
