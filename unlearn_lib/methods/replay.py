"""Texts that the model itself writes, in the place of retained texts that are not at hand: what it says now is what it should go on saying.

A retained text lends its head (what is not scored of it, and the first token, which nothing predicts); the rest is drawn from the
model's own predictions. What repeats a text to forget is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from unlearn_lib.data.batches import Example
from unlearn_lib.data.overlap import near_duplicates
from unlearn_lib.losses import IGNORED
from unlearn_lib.metrics.generation import end_tokens, same_length, write_on

ATTEMPTS = 4
"""How often as many texts as are missing are drawn anew where those drawn repeat what is to be forgotten."""


@torch.no_grad()
def replay(
    model: Any, heads: Sequence[Example], count: int, forget: Sequence[Example], batch_size: int, seed: int
) -> tuple[list[Example], int]:
    """At most `count` texts drawn from a model, and how many were drawn in all.

    Args:
        model: A causal language model that can generate.
        heads: Retained texts, which lend their heads one after the other.
        count: Texts wanted. There are fewer where nearly all that the model writes repeats the forget set.
        forget: Texts whose near duplicates are left out (see `near_duplicates`).
        batch_size: Texts that are written at a time.
        seed: Of the draws; the caller's generators are left as they were.

    Cost: a forward pass of each text that is drawn.
    """
    longest = max(len(head.input_ids) for head in heads)
    found: list[Example] = []
    drawn = 0
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        for _ in range(ATTEMPTS):
            wanted = [heads[(drawn + i) % len(heads)] for i in range(count - len(found))]
            if not wanted:
                break
            groups = same_length([head_length(head) for head in wanted], batch_size)
            written = [text for group in groups for text in _written(model, [wanted[i] for i in group], longest)]
            drawn += len(wanted)
            near = set(near_duplicates(written, forget))
            found += [text for number, text in enumerate(written) if number not in near and text.scored]
    return found, drawn


def head_length(text: Example) -> int:
    """Tokens in front of the first one that is scored; the first token never is."""
    return 1 + next((number for number, label in enumerate(text.labels[1:]) if label != IGNORED), len(text.labels) - 1)


def _written(model: Any, group: Sequence[Example], longest: int) -> Iterator[Example]:
    k = head_length(group[0])
    prompts_Bk = torch.tensor([text.input_ids[:k] for text in group], device=model.device)
    ends = end_tokens(model)
    settings: dict[str, Any] = {"do_sample": True, "top_k": 0, "max_new_tokens": max(1, longest - k)}
    written_BT = write_on(model, prompts_Bk, eos_token_id=list(ends) or None, pad_token_id=ends[0] if ends else 0, **settings)
    for row in written_BT.tolist():
        stop = next((number + 1 for number, token in enumerate(row[k:], k) if token in ends), len(row))
        yield Example(tuple(row[:stop]), (*[IGNORED] * k, *row[k:stop]))
