"""What one model says of all texts of an audit: one forward pass, from which all measures of likelihood are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.audit.texts import Texts
from unlearn_lib.data.batches import Grouping
from unlearn_lib.data.examples import by_text
from unlearn_lib.metrics.likelihood import TokenScores, of_texts, score_texts


@dataclass(frozen=True)
class Observed:
    """What a model says of every text by set, in the order of `by_text`.

    Attributes:
        scores: The scores of its tokens.
        counted: How many of its predictions count as known or not. It is one less than there are scores where virtual tokens predict
            a text's first token, which is part of its loss alone, as in `right_tokens`.
    """

    scores: Mapping[str, Sequence[TokenScores]]
    counted: Mapping[str, Sequence[int]]

    def losses(self, name: str) -> Tensor:
        """`[n]`, float64: the mean NLL of every text of a set, in nats."""
        return torch.tensor([text.loss for text in self.scores[name]], dtype=torch.float64)

    def right(self, name: str) -> list[Tensor]:
        """For every text `[S]`, bool: which of its scored predictions are the most likely token; what `right_tokens` gives."""
        counted = self.counted[name]
        return [text.right_T[len(text.right_T) - S :] for text, S in zip(self.scores[name], counted, strict=True)]


def observe(model: Any, texts: Texts, batch_size: int | Grouping) -> Observed:
    """The scores of all texts under a model. Cost: one forward pass over them."""
    sets = texts.examples
    found = {name: of_texts(score_texts(model, own, batch_size), own) for name, own in sets.items()}
    counted = {name: [sum(own[i].scored for i in group) for group in by_text(own)] for name, own in sets.items()}
    return Observed(found, counted)
