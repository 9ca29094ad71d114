"""What one model says of all texts of an audit: one forward pass, from which all measures of likelihood are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.audit.texts import Texts
from unlearn_lib.metrics.likelihood import TokenScores, of_texts, score_texts


@dataclass(frozen=True)
class Observed:
    """The scores of every text by set, in the order of `by_text`."""

    scores: Mapping[str, Sequence[TokenScores]]

    def losses(self, name: str) -> Tensor:
        """`[n]`, float64: the mean NLL of every text of a set, in nats."""
        return torch.tensor([text.loss for text in self.scores[name]], dtype=torch.float64)

    def right(self, name: str) -> list[Tensor]:
        """For every text `[T]`, bool: which of its scored predictions are the most likely token."""
        return [text.right_T for text in self.scores[name]]


def observe(model: Any, texts: Texts, batch_size: int) -> Observed:
    """The scores of all texts under a model. Cost: one forward pass over them."""
    found = {name: of_texts(score_texts(model, own, batch_size), own) for name, own in texts.examples.items()}
    return Observed(found)
