"""What a model knows of some texts, text by text: the measures that every attack takes before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.curvature.risk import evaluating
from unlearn_lib.data.batches import Example, make_batches
from unlearn_lib.data.examples import by_text, text_means
from unlearn_lib.errors import InputError
from unlearn_lib.losses import Batch, sequence_means, token_logits, token_nll
from unlearn_lib.metrics.memorisation import extracted, extraction_strength, memorisation_accuracy, right_of


@dataclass(frozen=True)
class Knowledge:
    """What a model knows of n texts; every tensor is `[n]`, float64, in the order of `by_text`.

    Attributes:
        loss_n: The mean NLL over a text's scored tokens, in nats.
        accuracy_n: The share of a text's scored tokens that are the most likely one (MA of one text).
        strength_n: Its extraction strength.
        extracted_n: 1 where greedy decoding after the given share of a text writes the rest exactly, 0 elsewhere.
    """

    loss_n: Tensor
    accuracy_n: Tensor
    strength_n: Tensor
    extracted_n: Tensor

    @property
    def loss(self) -> float:
        """The mean of the texts' losses, in nats."""
        return float(self.loss_n.mean())

    @property
    def measures(self) -> dict[str, float]:
        """The means of the other three over the texts, by name, between 0 and 1."""
        names = ("accuracy", "strength", "extracted")
        return {name: float(getattr(self, f"{name}_n").mean()) for name in names}


def knowledge(model: Any, examples: Sequence[Example], *, prefix: float = 0.5, batch_size: int = 32) -> Knowledge:
    """What the model knows of these texts, in evaluation mode whatever mode it is in; its mode is left as it was.

    Args:
        model: A causal language model.
        examples: The texts, as `encode(...).examples` gives them; the pieces of a long text are put together again.
        prefix: The share of a text's scored tokens that is given where extraction is measured; see `extracted`.
        batch_size: Sequences in a forward pass.

    Raises:
        InputError: No texts, or a prefix outside [0, 1).

    Cost: one forward pass.
    """
    if not examples:
        raise InputError("an attack measures what comes back of some texts, and there are none; give at least one")
    losses: list[Tensor] = []
    right: list[Tensor] = []
    with evaluating(model), torch.no_grad():
        for batch in make_batches(examples, batch_size, model.device):
            loss_B, own = of_logits(token_logits(model, batch), batch)
            losses.append(loss_B)
            right += own
    return of_predictions(torch.cat(losses), right, examples, prefix)


def of_logits(logits_BTV: Tensor, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    """Of a batch's sequences the mean losses `[B]`, and what `right_tokens` gives for them, from logits as of `token_logits`."""
    return sequence_means(*token_nll(logits_BTV, batch["labels"])), right_of(logits_BTV, batch["labels"])


def of_predictions(mean_n: Tensor, right: Sequence[Tensor], examples: Sequence[Example], prefix: float = 0.5) -> Knowledge:
    """From the sequences' mean losses `[n]` and what `right_tokens` gives for them, to what is known of the texts."""
    own = [torch.cat([right[i] for i in group]) for group in by_text(examples)]
    return Knowledge(
        text_means(mean_n.double().cpu(), examples),
        torch.tensor([memorisation_accuracy([right_S]) for right_S in own], dtype=torch.float64),
        extraction_strength(own),
        extracted(own, prefix).double(),
    )


def best(found: Sequence[Knowledge]) -> Knowledge:
    """What an attacker knows who has several ways and takes the best one for each text and each measure: the lowest loss, and the highest
    of the others."""
    stacked = {field.name: torch.stack([getattr(one, field.name) for one in found]) for field in fields(Knowledge)}
    return Knowledge(**{name: tensor.amin(0) if name == "loss_n" else tensor.amax(0) for name, tensor in stacked.items()})
