"""K-FAC's moments from the texts of several processes, and their eigenvectors, which the processes find by turns.

Every process has summed over its own texts, and adding these sums up makes the moments of all texts. Each process then decomposes some of
the parameters' blocks, which it keeps and applies, or tells the others.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

import torch
from torch import Tensor

from unlearn_lib.curvature.moments import DiagonalMoment, Eigen, FullMoment, Moments, Side, SideMoment
from unlearn_lib.curvature.uses import as_matrix
from unlearn_lib.ranks import Ranks


def eigen_together(moments: Moments, ranks: Ranks, *, keep_all: bool) -> tuple[dict[str, int], dict[str, Eigen]]:
    """The parameters' blocks of all processes' texts in their eigenvectors; see `Moments.eigen`.

    Returns:
        `(which process has found which parameter's block, the blocks)`: of all parameters with `keep_all`, else those of this process.
    """
    if ranks.size == 1:
        return dict.fromkeys(moments.params, 0), moments.eigen()
    add_moments(moments, ranks)
    owners = dealt(moments, ranks.size)
    for side in [side for side in moments.sides if owners[side[0]] != ranks.rank]:
        del moments.sides[side]  # another process goes on with it
    own = {name: moments.eigen_of(name) for name, owner in owners.items() if owner == ranks.rank}
    if not keep_all:
        return owners, own
    said = ranks.told({name: _form(e) for name, e in own.items()})
    forms = {name: form for one in said for name, form in one.items()}
    found: dict[str, Eigen] = {}
    for name, param in moments.params.items():
        parts = (
            _tensors(own[name]) if name in own else [None if shape is None else param.new_empty(shape) for shape in forms[name]]
        )
        left_pp, right_qq, values_pq = (part if part is None else ranks.spread(part, owners[name]) for part in parts)
        assert values_pq is not None
        found[name] = Eigen(left_pp, right_qq, values_pq)
    return owners, found


def add_moments(moments: Moments, ranks: Ranks) -> None:
    """Make them those of all processes' texts."""
    params, device = moments.params, next(iter(moments.params.values())).device
    numbers: dict[int, int] = {}
    own = {
        side: (numbers.setdefault(id(moment), len(numbers)), isinstance(moment, FullMoment))
        for side, moment in moments.sides.items()
    }
    uses, sides, entries = zip(*ranks.told((moments.uses, own, list(moments.entries))), strict=True)
    # a process without texts has seen no use, and one without a text for an expert none of that expert
    moments.uses = {name: max(seen[name] for seen in uses) for name in params}
    sums: dict[Hashable, SideMoment] = {}
    for side, (_, full) in {side: seen for one in reversed(sides) for side, seen in one.items()}.items():
        # sides have one moment where they have one in every process that has seen them
        shared = tuple(one[side][0] if side in one else None for one in sides)
        if shared not in sums:
            sums[shared] = _own_sum(moments, side, full)
            ranks.add_tensor(sums[shared].values)
        moments.sides[side] = sums[shared]
    for name in dict.fromkeys(name for one in entries for name in one):
        if name not in moments.entries:
            moments.entries[name] = torch.zeros(as_matrix(params[name]).shape, dtype=torch.float64, device=device)
        ranks.add_tensor(moments.entries[name])
    positions = torch.tensor(list(moments.positions.values()), dtype=torch.float64, device=device)
    moments.positions = dict(zip(moments.positions, ranks.add_tensor(positions).tolist(), strict=True))


def _own_sum(moments: Moments, side: Side, full: bool) -> SideMoment:
    """What this process has summed for a side: a copy, because others may have the same moment here and not in another process."""
    name, _, place = side
    moment = moments.sides.get(side)
    if isinstance(moment, FullMoment):
        return moment.copy()
    kind = FullMoment if full else DiagonalMoment
    return moment or kind(as_matrix(moments.params[name]).shape[place], moments.params[name], exact=moments.exact)


def dealt(moments: Moments, size: int) -> dict[str, int]:
    """Which process decomposes which parameter's block: those that share a moment the same one, and each about as many cubes of sides."""
    groups: dict[Hashable, list[str]] = {}
    for name in moments.params:
        shared = moments.sides.get((name, 0, 0))
        groups.setdefault(name if shared is None or moments.exact else id(shared), []).append(name)
    loads, owners = [0] * size, dict[str, int]()
    for names in sorted(groups.values(), key=lambda names: -_work(moments.params, names)):
        owner = min(range(size), key=loads.__getitem__)
        loads[owner] += _work(moments.params, names)
        owners.update(dict.fromkeys(names, owner))
    return owners


def _work(params: Mapping[str, Tensor], names: list[str]) -> int:
    return sum(side**3 for name in names for side in as_matrix(params[name]).shape)


def _tensors(e: Eigen) -> list[Tensor | None]:
    return [None if part is None else part.contiguous() for part in (e.left_pp, e.right_qq, e.values_pq)]


def _form(e: Eigen) -> list[list[int] | None]:
    return [None if part is None else list(part.shape) for part in _tensors(e)]
