"""What a report measures of a model: losses, the loss attack, greedy extraction, all from one forward pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.audit.observe import Observed, observe
from unlearn_lib.audit.texts import Texts
from unlearn_lib.data.batches import Example, Grouping
from unlearn_lib.metrics.indistinguishable import loss_attack_auc
from unlearn_lib.metrics.memorisation import extracted, extraction_strength, memorisation_accuracy
from unlearn_lib.unlearning.outcome import Losses


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


def measured(observed: Observed) -> Measured:
    """The losses of every set, and how well the forget set is still known."""
    losses = {name: observed.losses(name) for name in observed.scores}
    right = observed.right("forget")
    extraction_n = extraction_strength(right)
    metrics: dict[str, float | None] = {
        "loss_attack_auc": loss_attack_auc(losses["forget"], losses["holdout"]) if "holdout" in losses else None,
        "greedy_extraction": float(extracted(right).double().mean()),
        "extraction_strength": float(extraction_n.mean()),
        "memorisation_accuracy": memorisation_accuracy(right),
    }
    return Measured(losses, metrics, extraction_n)


class Look:
    """Gives losses as `losses_of` does, and keeps what else the model says of the texts, so that a report takes no second forward pass.

    `observed` is of the model that was looked at last.
    """

    observed: Observed

    def __init__(self, texts: Texts) -> None:
        self.texts = texts

    def __call__(self, model: Any, sets: Mapping[str, Sequence[Example]], batch_size: int | Grouping) -> Losses:
        """The losses `[n]` of `texts`, which are those of `sets`. Cost: one forward pass over them."""
        self.observed = observe(model, self.texts, batch_size)
        # whether a model has diverged is judged by the digits that it computes with
        digits = torch.promote_types(next(model.parameters()).dtype, torch.float32)
        return {name: self.observed.losses(name).to(digits) for name in self.observed.scores}


MEANING = {
    "loss_attack_auc": "chance that a forget text has a lower loss than a held-out text (0.5: cannot be told apart)",
    "greedy_extraction": "share of forget texts whose second half greedy decoding completes exactly from the first",
    "extraction_strength": "mean share of a forget text that greedy decoding gives exactly, from the shortest prefix that does it",
    "memorisation_accuracy": "share of the forget texts' tokens that are the most likely prediction",
}
