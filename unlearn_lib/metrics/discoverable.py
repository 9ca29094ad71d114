r"""Discoverable extraction (Carlini et al., arXiv 2202.07646; Nasr et al., arXiv 2311.17035): how many texts does a model finish word for
word when it is given their first k tokens?

    greedy   the share of the texts whose next 50 tokens greedy decoding writes exactly
    drawn    the share of the texts whose next 50 tokens at least one of D draws is exactly (arXiv 2410.19482)

Longer prefixes give more away, so the shares are given for several. The texts that are long enough differ with k, and so does what is to
be found of them; each share has its number of texts beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.data.batches import Example, Grouping
from unlearn_lib.data.examples import by_text
from unlearn_lib.errors import InputError
from unlearn_lib.metrics.extraction import Draws, continuations
from unlearn_lib.metrics.memorisation import right_tokens

PREFIXES = (10, 20, 50)
TOKENS = 50


@dataclass(frozen=True)
class Discoverable:
    """What was found with prefixes of one length.

    Attributes:
        prefix: Tokens that were given, k.
        texts: How many texts were long enough; both shares are of these.
        greedy: The share that greedy decoding finishes exactly, between 0 and 1; None where no text was long enough.
        drawn: The share that at least one draw finishes exactly; None without draws, too.
        found: The numbers of the texts that greedy decoding finishes, among those that were given.
    """

    prefix: int
    texts: int
    greedy: float | None
    drawn: float | None
    found: tuple[int, ...]


def discoverable(
    model: Any,
    examples: Sequence[Example],
    prefixes: Sequence[int] = PREFIXES,
    *,
    tokens: int | None = TOKENS,
    draws: int = 0,
    top_k: int = 40,
    seed: int = 0,
    batch_size: int = 32,
) -> list[Discoverable]:
    """For every prefix length the share of the texts that the model finishes exactly.

    A text counts with all its tokens, also those of a prompt that are not scored; a token in front of it (BOS) belongs to the prefix,
    and its end-of-text token to what is to be found.

    Args:
        model: A causal language model in evaluation mode.
        examples: Whole texts, such as `encode(...).examples` with texts that are cut and not split.
        prefixes: Their lengths k, in tokens.
        tokens: How many tokens after the prefix are to be found; None: the rest of each text.
        draws: How many continuations of each text are drawn beside the greedy one; 0 for none.
        top_k: From how many of the likeliest tokens each is drawn.
        seed: Of the draws; the global generators are left as they were.
        batch_size: Texts at a time.

    Raises:
        InputError: No texts; pieces of texts; a number below 1 (of draws: below 0); no text that is long enough for the
            shortest prefix.

    Cost: one forward pass for all prefixes: where every prediction is right under teacher forcing, greedy decoding gives the same tokens.
    And with draws for every prefix as many generations of each text.
    """
    _check(examples, prefixes, tokens, draws, top_k)
    whole = [Example(example.input_ids, example.input_ids) for example in examples]
    right = right_tokens(model, whole, Grouping(batch_size))
    found = []
    for prefix in prefixes:
        ends = [prefix + tokens if tokens else max(len(text.input_ids), prefix + 1) for text in whole]
        long = [number for number, text in enumerate(whole) if len(text.input_ids) >= ends[number]]
        greedy = [number for number in long if _all_right(right[number], prefix, ends[number])]
        cut = [Example(ids, ids) for ids in (whole[number].input_ids[: ends[number]] for number in long)]
        drawn = _drawn(model, cut, Draws(prefix, draws, top_k), seed, batch_size) if draws and long else None
        share = len(greedy) / len(long) if long else None
        found.append(Discoverable(prefix, len(long), share, drawn, tuple(greedy)))
    return found


def _all_right(right_S: Tensor, prefix: int, end: int) -> bool:
    # prediction s is of token s + 1
    return bool(right_S[prefix - 1 : end - 1].all())


@torch.no_grad()
def _drawn(model: Any, cut: Sequence[Example], draws: Draws, seed: int, batch_size: int) -> float:
    written = continuations(model, cut, draws, seed=seed, batch_size=batch_size)
    hits = [text.input_ids[draws.prefix :] in own for text, own in zip(cut, written, strict=True)]
    return sum(hits) / len(hits)


def _check(examples: Sequence[Example], prefixes: Sequence[int], tokens: int | None, draws: int, top_k: int) -> None:
    if not examples or not prefixes:
        raise InputError("extraction takes at least one text and one length of a prefix; there is none")
    if len(by_text(examples)) < len(examples):
        raise InputError(
            "some sequences are pieces of one text, and a piece does not begin where its text does; encode the texts with "
            'long_texts="cut"'
        )
    if min(*prefixes, top_k, 1 if tokens is None else tokens) < 1 or draws < 0:
        raise InputError(
            f"prefixes, tokens and top_k are at least 1 and draws at least 0; got {tuple(prefixes)}, {tokens}, {top_k} and {draws}"
        )
    least, longest = min(prefixes) + (tokens or 1), max(len(example.input_ids) for example in examples)
    if longest < least:
        raise InputError(
            f"the longest text has {longest} tokens, and the shortest prefix with what is to be found after it takes {least}; give "
            "longer texts, shorter prefixes or fewer tokens"
        )
