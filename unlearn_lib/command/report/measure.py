"""What a report measures of a model: losses, the loss attack, greedy extraction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.data.batches import Example, Grouping
from unlearn_lib.data.examples import by_text
from unlearn_lib.metrics.indistinguishable import loss_attack_auc
from unlearn_lib.metrics.memorisation import extracted, extraction_strength, memorisation_accuracy, right_tokens
from unlearn_lib.unlearning.outcome import losses_of


@dataclass(frozen=True)
class Measured:
    """One model's losses, `[n]` by set (of whole texts, in however many pieces they were read); its metrics by name (None where there
    is no holdout to compare with); and the extraction strength of every forget text, `[n]`."""

    losses: Mapping[str, Tensor]
    metrics: Mapping[str, float | None]
    extraction_n: Tensor

    def mean_loss(self, name: str) -> float | None:
        """The mean loss of a set, None where there is no such set."""
        return float(self.losses[name].double().mean()) if name in self.losses else None


def measure(
    model: Any,
    sets: Mapping[str, Sequence[Example]],
    batch_size: int | Grouping,
    losses: Mapping[str, Tensor] | None = None,
) -> Measured:
    """Losses of every set that is not empty, unless they are known, and how well the forget set is still known. Cost: a forward
    pass over each set and one more over the forget set."""
    if losses is None:
        losses = losses_of(model, sets, batch_size)
    right_pieces = right_tokens(model, sets["forget"], batch_size)
    right = [torch.cat([right_pieces[i] for i in group]) for group in by_text(sets["forget"])]
    extraction_n = extraction_strength(right)
    metrics: dict[str, float | None] = {
        "loss_attack_auc": loss_attack_auc(losses["forget"], losses["holdout"]) if "holdout" in losses else None,
        "greedy_extraction": float(extracted(right).double().mean()),
        "extraction_strength": float(extraction_n.mean()),
        "memorisation_accuracy": memorisation_accuracy(right),
    }
    return Measured(losses, metrics, extraction_n)


MEANING = {
    "loss_attack_auc": "chance that a forget text has a lower loss than a held-out text (0.5: cannot be told apart)",
    "greedy_extraction": "share of forget texts whose second half greedy decoding completes exactly from the first",
    "extraction_strength": "mean share of a forget text that greedy decoding gives exactly, from the shortest prefix that does it",
    "memorisation_accuracy": "share of the forget texts' tokens that are the most likely prediction",
}
