"""Texts with random tokens in the place of some of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from unlearn_lib.data.batches import Example
from unlearn_lib.losses import IGNORED


class Corruption:
    """Replaces a share of the scored tokens of texts by random ones, anew in every call.

    Args:
        share: Between 0 and 1; the number of tokens is rounded down.
        tokens: Those that may be replaced, and that are drawn, each with the same chance.
        seed: Of places and tokens.
    """

    def __init__(self, share: float, tokens: Sequence[int], seed: int) -> None:
        self.share, self.tokens, self._known = share, tokens, frozenset(tokens)
        self._draw = torch.Generator().manual_seed(seed)

    def of(self, text: Example) -> Example:
        """The corrupted text: the tokens are replaced in what is read and in what is scored."""
        ids, labels = list(text.input_ids), list(text.labels)
        places = [i for i, label in enumerate(labels) if i and label != IGNORED and ids[i] in self._known]
        count = int(self.share * len(places) + 1e-9)  # 0.29 * 100 is a little less than 29
        chosen = torch.randperm(len(places), generator=self._draw)[:count].tolist()
        drawn = torch.randint(len(self.tokens), (count,), generator=self._draw).tolist()
        for place, number in zip(chosen, drawn, strict=True):
            ids[places[place]] = labels[places[place]] = self.tokens[number]
        return Example(tuple(ids), tuple(labels), text.row, text.lead)


def replaceable(model: Any, tokenizer: Any) -> list[int]:
    """The tokens that are no special ones, of those that the model has an embedding for; all of these without a tokenizer."""
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer is None:
        return list(range(rows))
    special = set(tokenizer.all_special_ids)
    return [token for token in range(min(rows, len(tokenizer))) if token not in special]
