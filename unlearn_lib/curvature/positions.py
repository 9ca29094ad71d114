"""Which positions of the text count in the second moments: those that a loss depends on, or a share of them drawn from a seed.

Shape suffixes: B sequences, T positions of the text, S positions of a use, R rows that count, s a side of a parameter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlearn_lib.curvature.uses import Direct, Lookup, Outer, Use
from unlearn_lib.losses import IGNORED, Batch


def heard(batch: Batch) -> Tensor:
    """`[B, T]`: the positions that a loss can depend on: of the text, and with a scored token after them."""
    scored_BS = batch["labels"][:, 1:] != IGNORED
    later_BS = scored_BS.flip(1).cumsum(1).flip(1) > 0
    return torch.nn.functional.pad(later_BS, (0, 1)) & batch["attention_mask"].bool()


def draw_positions(heard_BT: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """`[B, T]`: a share of each sequence's positions, each of them with that probability, their number rounded up or down at random.

    A sequence of n positions takes n + 1 numbers from the generator, so that neither padding nor the other sequences of its batch
    change what is drawn.
    """
    kept_BT = torch.zeros_like(heard_BT)
    for heard_T, kept_T, n in zip(heard_BT, kept_BT, heard_BT.sum(1).tolist(), strict=True):
        first, *_ = numbers = torch.rand(n + 1, dtype=torch.float64, generator=generator)
        chosen = numbers[1:].argsort()[: int(share * n + float(first))]
        kept_T[heard_T.nonzero().squeeze(1)[chosen.to(heard_T.device)]] = True
    return kept_BT


class Positions:
    """Which positions of a batch count, and how much.

    Args:
        heard_BT: 1 for those that a loss depends on, 0 for the others.
        weights_BT: What each counts; 0 for those that are left out.
        drop: Whether rows that count nothing are left out of products; otherwise they are zeros in them.
    """

    def __init__(self, heard_BT: Tensor, weights_BT: Tensor, *, drop: bool) -> None:
        self.heard_BT, self.weights_BT, self.drop = heard_BT, weights_BT, drop
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._numbers: dict[int, float] = {}

    def number(self, use: Outer | Lookup) -> float:
        """How many positions of the text, or of virtual tokens, count."""
        S = use.right_BTq.shape[1]
        if S not in self._numbers:
            self._numbers[S] = float(for_positions(self.weights_BT, S).sum()) / max(1, S // self.weights_BT.shape[1])
        return self._numbers[S]

    def rows(self, x_BSs: Tensor) -> Tensor:
        """`[R, s]`: the rows of one factor, times the root of what they count."""
        if not self.drop:
            return (x_BSs * for_positions(self.weights_BT, x_BSs.shape[1]).unsqueeze(-1)).flatten(0, 1)
        places_R, weights_R = self._chosen(x_BSs.shape[1])
        return x_BSs.flatten(0, 1).index_select(0, places_R).mul_(weights_R.sqrt().unsqueeze(-1))

    def counts(self, use: Lookup) -> Tensor:
        """`[p]`: what the positions count that look up each row."""
        weights_BS = for_positions(self.weights_BT, use.right_BTq.shape[1])
        return torch.bincount(use.ids_BT.flatten(), weights_BS.flatten().double(), minlength=use.rows)

    def _chosen(self, S: int) -> tuple[Tensor, Tensor]:
        """`([R], [R])`: the places that count among the B * S, and what each counts."""
        if S not in self._kept:
            weights = for_positions(self.weights_BT, S).flatten()
            places_R = weights.nonzero().squeeze(1)
            self._kept[S] = places_R, weights[places_R]
        return self._kept[S]


def mask(use: Use, heard_BT: Tensor) -> Use:
    """The use without the positions that no loss depends on: their inputs would count in one factor, and not in the other."""
    if isinstance(use, Direct):
        return use
    heard_BT1 = for_positions(heard_BT, use.right_BTq.shape[1]).unsqueeze(-1)
    if isinstance(use, Lookup):
        return Lookup(use.ids_BT, use.right_BTq * heard_BT1, use.rows)
    return Outer(use.left_BTp * heard_BT1, use.right_BTq * heard_BT1)


def for_positions(heard_BT: Tensor, S: int) -> Tensor:
    """`[B, S]` for the positions of a use: where heads and the like count as positions, each one of the text is several; virtual
    tokens stand before the text, and all of it depends on them."""
    B, T = heard_BT.shape
    virtual = S % T
    return torch.cat([heard_BT.new_ones(B, virtual), heard_BT.repeat_interleave(S // T, dim=1)], 1)
