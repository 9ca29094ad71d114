r"""Verbatim and knowledge memorisation of MUSE (Shi et al., arXiv 2407.06460): what a model writes, compared with the truth by ROUGE-L.

    verbatim    mean over the texts of the ROUGE-L F1 of the greedy continuation of a text's beginning and its true continuation, both
                of at most 128 tokens
    knowledge   mean over the questions of the ROUGE-L F1 of the greedy answer, of at most 32 tokens, and the true answer; answered
                questions stand in front of every question as examples

Words are compared as they are, without stemming. MUSE reports 100 times the means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.data.batches import context_length
from unlearn_lib.data.encoder import Encoder
from unlearn_lib.data.given import rows_of
from unlearn_lib.data.rows import Row
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED
from unlearn_lib.metrics.generation import greedy_continuations
from unlearn_lib.metrics.rouge import rouge_l

VERBATIM_TOKENS, ANSWER_TOKENS = 128, 32
BETWEEN = "\n\n"
"""Stands behind every example; an answer ends where a model writes it, or begins a question of its own."""
ENDS = (BETWEEN, "\nQuestion", "Question:")


def verbatim_memorisation(model: Any, tokenizer: Any, rows: Any, n: int = VERBATIM_TOKENS, *, batch_size: int = 32) -> Tensor:
    """`[rows]`, float64, between 0 and 1: the ROUGE-L F1 of every greedy continuation of n tokens with the first n true ones.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        rows: `prompt`, the beginning of a text, and `completion`, how it goes on. Both are read as one text, as in training. Of a prompt
            that leaves no room for n tokens in the model's context the beginning is left out.
        n: Tokens of a continuation at most.
        batch_size: Prompts of one length at a time.

    Raises:
        InputError: No rows, or a row without a prompt; n below 1 or beyond the context; a true continuation without a word.

    Cost: a greedy generation of n tokens for every row.
    """
    encoder = Encoder(tokenizer)
    prompts, truths = [], []
    for number, row in enumerate(_prompted(rows)):
        text = encoder.answer(row["prompt"], row["completion"], f"row {number}", end=False)
        first = next((i for i, label in enumerate(text.labels) if label != IGNORED), len(text.labels))
        prompts.append(text.input_ids[:first])
        truths.append(_decoded(tokenizer, text.input_ids[first : first + n]))
    return _scored(_written(model, tokenizer, prompts, n, batch_size), truths)


def knowledge_memorisation(
    model: Any, tokenizer: Any, rows: Any, shots: Any = (), n: int = ANSWER_TOKENS, *, batch_size: int = 32
) -> Tensor:
    """`[rows]`, float64, between 0 and 1: the ROUGE-L F1 of every greedy answer of n tokens with the true answer.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        rows: The questions with their answers, as `prompt` and `completion`.
        shots: Questions with answers, likewise, that stand in front of every question as examples; none by default. Of what is too long
            for the model's context the beginning is left out.
        n: Tokens of an answer at most. It ends with a token that ends a text, an empty line or another question, too.
        batch_size: Prompts of one length at a time.

    Raises:
        InputError: No rows, or a row without a prompt; n below 1 or beyond the context; a true answer without a word.

    Cost: a greedy generation of n tokens for every row.
    """
    asked = _prompted(rows)
    before = "".join(shot["prompt"] + shot["completion"] + BETWEEN for shot in (_prompted(shots) if len(shots) else ()))
    encoder = Encoder(tokenizer)
    prompts = [encoder.answer(before + row["prompt"], "", "a question", end=False).input_ids for row in asked]
    answers = [_until(written) for written in _written(model, tokenizer, prompts, n, batch_size)]
    return _scored(answers, [row["completion"] for row in asked])


def _prompted(rows: Any) -> list[Row]:
    found = rows_of(rows)
    if not found:
        raise InputError("there are no rows to measure; give at least one prompt with its completion")
    bare = next((number for number, row in enumerate(found) if not row.get("prompt")), None)
    if bare is not None:
        raise InputError(f"row {bare} has no prompt that a model could continue; give rows with 'prompt' and 'completion'")
    return found


def _written(model: Any, tokenizer: Any, prompts: Sequence[tuple[int, ...]], n: int, batch_size: int) -> list[str]:
    room = context_length(model, tokenizer) - n
    if n < 1 or room < 1:
        raise InputError(f"n is a number of tokens, at least 1, and leaves room for a prompt in the model's context; got {n}")
    cut = [prompt[-room:] for prompt in prompts]
    empty = next((number for number, prompt in enumerate(cut) if not prompt), None)
    if empty is not None:
        raise InputError(
            f"the prompt of row {empty} has no token of its own, so there is nothing to continue; give a longer one"
        )
    return [_decoded(tokenizer, ids) for ids in greedy_continuations(model, cut, n, batch_size=batch_size)]


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=True))


def _until(answer: str) -> str:
    """An answer up to where it ends."""
    for end in ENDS:
        answer = answer.partition(end)[0]
    return answer


def _scored(written: Sequence[str], truths: Sequence[str]) -> Tensor:
    values = [rouge_l(answer, truth, stem=False).f1 for answer, truth in zip(written, truths, strict=True)]
    return torch.tensor(values, dtype=torch.float64)
