"""Which positions of the text count in the second moments: those that a loss depends on, or a share of them drawn from a seed.

Shape suffixes: B sequences, T positions of the text, S positions of a use, R rows that count, s a side of a parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from unlearn_lib.curvature.uses import Direct, Lookup, Outer, Use
from unlearn_lib.losses import IGNORED, Batch


def heard(batch: Batch) -> Tensor:
    """`[B, T]`: the positions that a loss can depend on: of the text, and with a scored token after them."""
    scored_BS = batch["labels"][:, 1:] != IGNORED
    later_BS = scored_BS.flip(1).cumsum(1).flip(1) > 0
    return torch.nn.functional.pad(later_BS, (0, 1)) & batch["attention_mask"].bool()


def on_host(batches: Sequence[Batch]) -> list[Batch]:
    """The labels and the attention masks of batches on the host, all in one copy."""
    if not batches:
        return []
    sources = [batch[key] for batch in batches for key in ("labels", "attention_mask")]
    flat = torch.cat([source.flatten().long() for source in sources]).cpu()
    parts = [part.view(source.shape) for part, source in zip(flat.split([s.numel() for s in sources]), sources, strict=True)]
    return [
        {"labels": labels_BT, "attention_mask": mask_BT} for labels_BT, mask_BT in zip(parts[::2], parts[1::2], strict=True)
    ]


def chosen(wanted_S: Tensor, number: int) -> Tensor:
    """`[number]`: the places of the true entries, whose number is known: `nonzero` would ask the device for it."""
    return wanted_S.byte().argsort(descending=True, stable=True)[:number]


def draw_positions(heard_BT: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """`[B, T]`: a share of each sequence's positions, each of them with that probability, their number rounded up or down at random.

    It is drawn on the host, where `heard_BT` has to be.

    A sequence of n positions takes n + 1 numbers from the generator, so that neither padding nor the other sequences of its batch
    change what is drawn.
    """
    kept_BT = torch.zeros_like(heard_BT)
    for heard_T, kept_T, n in zip(heard_BT, kept_BT, heard_BT.sum(1).numpy().tolist(), strict=True):
        first, *_ = numbers = torch.rand(n + 1, dtype=torch.float64, generator=generator).numpy()
        kept_T[chosen(heard_T, n)[numbers[1:].argsort()[: int(share * n + first)]]] = True
    return kept_BT


class Positions:
    """Which positions of a batch count, and how much.

    Args:
        heard_BT: 1 for those that a loss depends on, 0 for the others.
        weights_BT: What each counts; 0 for those that are left out.
        drop: Whether rows that count nothing are left out of products; otherwise they are zeros in them.
        host_BT: The weights on the host, where they are known there.
    """

    def __init__(self, heard_BT: Tensor, weights_BT: Tensor, *, drop: bool, host_BT: Tensor | None = None) -> None:
        self.heard_BT, self.weights_BT, self.drop = heard_BT, weights_BT, drop
        self._host_BT = host_BT
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    @cached_property
    def host_BT(self) -> Tensor:
        """The weights on the host."""
        return self.weights_BT.cpu() if self._host_BT is None else self._host_BT

    def number(self, use: Outer | Lookup) -> float:
        """How many positions of the text, or of virtual tokens, count."""
        S = use.right_BTq.shape[1]
        return float(for_positions(self.host_BT, S).sum().numpy()) / max(1, S // self.weights_BT.shape[1])

    def rows(self, x_BSs: Tensor) -> Tensor:
        """`[R, s]`: the rows of one factor, times the root of what they count."""
        if not self.drop:
            return (x_BSs * for_positions(self.weights_BT, x_BSs.shape[1]).unsqueeze(-1)).flatten(0, 1)
        places_R, weights_R = self._chosen(x_BSs.shape[1])
        return x_BSs.flatten(0, 1).index_select(0, places_R).mul_(weights_R.sqrt().unsqueeze(-1))

    def counts(self, use: Lookup) -> Tensor:
        """`[p]`: what the positions count that look up each row."""
        weights_BS = for_positions(self.weights_BT, use.right_BTq.shape[1])
        counts_p = weights_BS.new_zeros(use.rows, dtype=torch.float64)  # bincount would look for the largest id
        return counts_p.index_add_(0, use.ids_BT.flatten(), weights_BS.flatten().double())

    def _chosen(self, S: int) -> tuple[Tensor, Tensor]:
        """`([R], [R])`: the places that count among the B * S, and what each counts."""
        if S not in self._kept:
            weights = for_positions(self.weights_BT, S).flatten()
            places_R = chosen(weights != 0, int(for_positions(self.host_BT, S).count_nonzero().numpy()))
            self._kept[S] = places_R, weights[places_R]
        return self._kept[S]


def mask(use: Use, heard_BT: Tensor) -> Use:
    """The use without the positions that no loss depends on: their inputs would count in one factor, and not in the other."""
    if isinstance(use, Direct):
        return use
    heard_BT1 = for_positions(heard_BT, use.right_BTq.shape[1]).unsqueeze(-1)
    if isinstance(use, Lookup):
        return replace(use, right_BTq=use.right_BTq * heard_BT1)
    return Outer(use.left_BTp * heard_BT1, use.right_BTq * heard_BT1)


def for_positions(heard_BT: Tensor, S: int) -> Tensor:
    """`[B, S]` for the positions of a use: where heads and the like count as positions, each one of the text is several; virtual
    tokens stand before the text, and all of it depends on them."""
    B, T = heard_BT.shape
    virtual = S % T
    return torch.cat([heard_BT.new_ones(B, virtual), heard_BT.repeat_interleave(S // T, dim=1)], 1)
