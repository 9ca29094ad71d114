"""Table 10: which parts of a text are boilerplate, that is, stand word for word in other texts, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from unlearn_lib.data.batches import Example
from unlearn_lib.data.overlap import SHINGLE, runs


def shared_tokens(example: Example, others: Sequence[Example], least: int = 2) -> list[bool]:
    """Say for every token of a text whether it lies in a run of 8 tokens that at least so many of the others hold."""
    holders = Counter(run for other in others for run in runs(other))
    ids = example.input_ids
    marks = [False] * len(ids)
    for start in range(len(ids) - SHINGLE + 1):
        if holders[ids[start : start + SHINGLE]] >= least:
            marks[start : start + SHINGLE] = [True] * SHINGLE
    return marks


def highlighted(tokenizer: Any, example: Example, marks: Sequence[bool]) -> Markup:
    """The text as HTML, escaped, the marked tokens in <mark>; the end-of-text token is left out."""
    pieces: list[tuple[bool, list[int]]] = []
    for token, mark in zip(example.input_ids, marks, strict=True):
        if token == tokenizer.eos_token_id:
            continue
        if pieces and pieces[-1][0] == mark:
            pieces[-1][1].append(token)
        else:
            pieces.append((mark, [token]))
    parts = [escape(tokenizer.decode(ids)) for _, ids in pieces]
    marked = [Markup("<mark>{}</mark>").format(part) if mark else part for (mark, _), part in zip(pieces, parts, strict=True)]
    return Markup('<pre style="white-space: pre-wrap">{}</pre>').format(Markup("").join(marked))
