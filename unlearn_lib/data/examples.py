"""One encoded sequence, and the texts that sequences are pieces of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from unlearn_lib.losses import IGNORED


@dataclass(frozen=True)
class Example:
    """One encoded sequence: `input_ids` and, of the same length, `labels` with -100 where nothing is scored.

    `row` is the number of the row it comes from, which the pieces of one long text share; `lead` says how many special tokens (its
    BOS) stand in front of a text. Neither takes part in comparisons.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    row: int | None = field(default=None, compare=False)
    lead: int = field(default=0, compare=False)

    @property
    def scored(self) -> int:
        """How many of its tokens are scored; the first, which nothing predicts, never is."""
        return sum(label != IGNORED for label in self.labels[1:])


def pieces(text: Example, length: int) -> list[Example]:
    """A text as sequences of at most `length` tokens, in which every token that is scored in the text is scored exactly once.

    The scored tokens are shared out evenly, in order. Each piece has as much of the text before them as fits, at least a
    quarter of `length` where the text has it, so that of a long prompt the beginning is left out first; and the text's BOS in front.

    Args:
        text: The whole text.
        length: Of a piece at most, in tokens, at least 2.

    Cost: pieces overlap, so that together those of a very long text have 4/3 of its tokens.
    """
    ids, labels = text.input_ids, text.labels
    if len(ids) <= length:
        return [text]
    lead = min(text.lead, length - 1)
    room = length - lead
    most = room - max(room // 4, 0 if lead else 1)  # nothing predicts a sequence's first token
    found = []
    for first, last in _shares([i for i, label in enumerate(labels) if i and label != IGNORED], most):
        end = last + 1
        start, head = (0, ()) if end <= length else (end - room, ids[:lead])
        taken = (*head, *ids[start:end])
        scored = labels[first:end]
        found.append(Example(taken, (*[IGNORED] * (len(taken) - len(scored)), *scored), text.row))
    return found


def _shares(scored: list[int], most: int) -> list[tuple[int, int]]:
    """(first, last) of equal shares of these positions, none with more than `most` of them or wider than that."""
    share = -(-len(scored) // -(-len(scored) // most)) if scored else 0
    groups: list[list[int]] = []
    for position in scored:
        if not groups or len(groups[-1]) == share or position - groups[-1][0] >= most:
            groups.append([])
        groups[-1].append(position)
    return [(group[0], group[-1]) for group in groups]


def by_text(examples: Sequence[Example]) -> list[list[int]]:
    """The positions of each text's pieces, texts in the order of their first piece; an example without a row is a text by itself."""
    groups: dict[tuple[str, int], list[int]] = {}
    for position, example in enumerate(examples):
        key = ("alone", position) if example.row is None else ("row", example.row)
        groups.setdefault(key, []).append(position)
    return list(groups.values())


def text_means(mean_n: Tensor, examples: Sequence[Example]) -> Tensor:
    """From `[n]`, the mean loss of every example, to that of every text over all its scored tokens, in the order of `by_text`."""
    groups = by_text(examples)
    if len(groups) == len(examples):  # no long text, and no rounding by weights
        return mean_n
    weight_n = torch.tensor([example.scored for example in examples], dtype=torch.float64, device=mean_n.device)
    means = [(mean_n[group].double() * weight_n[group]).sum() / weight_n[group].sum() for group in groups]
    return torch.stack(means).to(mean_n.dtype)
