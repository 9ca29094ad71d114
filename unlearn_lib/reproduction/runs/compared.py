"""Texts that are looked at again and again: their losses, and how far a model's predictions are from the retrained model's, which are
made once. Both come from one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.data.batches import Example, make_batches
from unlearn_lib.losses import Batch, sequence_means, token_logits, token_nll
from unlearn_lib.metrics.divergence import of_logits, sequence_divergences

BATCH = 32
"""Texts in a pass of a measurement."""
COMPARED = 64
"""Distances to the retrained model are taken on at most so many retained and held-out texts."""


@dataclass(frozen=True)
class Compared:
    """A batch, which of its texts are compared `[B]`, and the retrained model's log-probabilities on those."""

    batch: Batch
    own_B: Tensor
    gold_bSV: Tensor

    def losses_and_distances(self, model: Any) -> tuple[Tensor, Tensor]:
        """`([B], [b])`: a model's losses on the batch, and KL(retrained, model) on the texts that are compared, in nats a token."""
        logits_BTV, labels_BT = token_logits(model, self.batch), self.batch["labels"]
        own = {"labels": labels_BT[self.own_B]}
        kl_b = sequence_divergences(self.gold_bSV, of_logits(logits_BTV[self.own_B]), own)
        return sequence_means(*token_nll(logits_BTV, labels_BT)), kl_b


def by_length(examples: Sequence[Example], device: torch.device | str) -> list[Batch]:
    """The examples in batches, the shortest first."""
    return make_batches(sorted(examples, key=lambda example: len(example.input_ids)), BATCH, device)


@torch.no_grad()
def compare(gold: Any, examples: Sequence[Example]) -> list[Compared]:
    """The examples as `by_length` has them, the first `COMPARED` with what `gold` predicts. Cost: a forward pass."""
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].input_ids))
    first_n = torch.tensor([i < COMPARED for i in order], device=gold.device)
    pairs = zip(by_length(examples, gold.device), first_n.split(BATCH), strict=True)
    return [Compared(batch, own_B, of_logits(token_logits(gold, batch)[own_B])) for batch, own_B in pairs]


@torch.no_grad()
def losses_and_distance(model: Any, compared: Sequence[Compared]) -> tuple[Tensor, float]:
    """`([n], mean)`: the losses, the shortest text first, and the mean distance to `gold`. Cost: a forward pass."""
    losses, distances = zip(*(one.losses_and_distances(model) for one in compared), strict=True)
    return torch.cat(losses), torch.cat(distances).double().mean().item()
