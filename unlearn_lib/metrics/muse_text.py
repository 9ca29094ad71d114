"""The two measures of MUSE (Shi et al. 2024, arXiv 2407.06460) that compare texts: what a model still recites, and what it still knows.

    verbatim memorisation     100 x mean ROUGE-L F1 between the greedy continuation of a text's first tokens and the true one
    knowledge memorisation    100 x mean ROUGE-L F1 between the greedy answer to a question and the true one

Words are compared as they are, without stemming, as in MUSE's code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.data.batches import context_length, encode
from unlearn_lib.data.given import rows_of
from unlearn_lib.data.questions import question_rows
from unlearn_lib.errors import InputError
from unlearn_lib.metrics.answers import answers, as_text, continued
from unlearn_lib.metrics.generation import end_tokens
from unlearn_lib.metrics.rouge import rouge_l

NEXT_QUESTION = ("\n\n", "\nQuestion", "Question:")
"""Where an answer ends, as in MUSE's code: a model that was shown questions goes on with one of its own."""


@dataclass(frozen=True)
class Recited:
    """What n texts were continued with, or n questions answered with.

    Attributes:
        written: What the model wrote, text by text.
        f1_n: `[n]`, float64: the ROUGE-L F1 with the truth, between 0 and 1.
    """

    written: tuple[str, ...]
    f1_n: Tensor

    @property
    def percent(self) -> float:
        """MUSE's measure: 100 times the mean."""
        return 100.0 * self.f1_n.mean().item()


def verbatim_memorisation(
    model: Any, tokenizer: Any, texts: Any, prefix: int, *, max_new_tokens: int = 128, batch_size: int = 32
) -> Recited:
    """How much of the texts a model recites after their first tokens.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        texts: A data set as `rows_of` takes it.
        prefix: How many of a text's first tokens are given (a BOS that the tokenizer puts in front is one of them).
        max_new_tokens: How many tokens are written, and compared, at most; fewer where the model's context ends.
        batch_size: Texts at a time.

    Raises:
        InputError: No texts; one that has nothing after the prefix, or no word there that ROUGE-L knows; `prefix`, `max_new_tokens` or
            `batch_size` out of range.

    Cost: a greedy generation of up to `max_new_tokens` tokens for every text.
    """
    context = context_length(model, tokenizer)
    if not 1 <= prefix < context or max_new_tokens < 1:
        raise InputError(
            f"prefix is at least 1 and below {context}, the model's context, and max_new_tokens is at least 1; got {prefix} and "
            f"{max_new_tokens}"
        )
    rows = rows_of(texts)
    if not rows:
        raise InputError("there are no texts to measure; give at least one")
    ids = [example.input_ids for example in encode(rows, tokenizer, min(context, prefix + max_new_tokens)).examples]
    truths = [as_text(tokenizer, text[prefix:]) for text in ids]
    for number, truth in enumerate(truths):
        if not truth:
            raise InputError(
                f"text {number} has nothing after a prefix of {prefix} tokens, so there is nothing to recite; leave it out or lower the "
                "prefix"
            )
    ends = (*end_tokens(model), tokenizer.eos_token_id)
    written = continued(model, [text[:prefix] for text in ids], max_new_tokens, context, ends, batch_size)
    return _compared([as_text(tokenizer, row) for row in written], truths)


def knowledge_memorisation(
    model: Any,
    tokenizer: Any,
    questions: Iterable[Mapping[str, str]],
    *,
    shots: Iterable[Mapping[str, str]] = (),
    max_new_tokens: int = 32,
    batch_size: int = 32,
) -> Recited:
    """How well a model answers questions on the texts.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        questions: Rows of `prompt` and `completion`.
        shots: Rows of the same kind that are put before every question with their answers, an empty line after each (few-shot).
        max_new_tokens: Of an answer; it ends earlier where the next question begins (`NEXT_QUESTION`).
        batch_size: Questions at a time.

    Raises:
        InputError: No questions; a row without these columns; see `answers` and `rouge_l`.

    Cost: a greedy generation of up to `max_new_tokens` tokens for every question.
    """
    rows, given = question_rows(questions), list(shots)
    before = "".join(f"{row['prompt']}{row['completion']}\n\n" for row in (question_rows(given) if given else ()))
    written = answers(model, tokenizer, [before + row["prompt"] for row in rows], max_new_tokens, batch_size)
    return _compared([_first_answer(text) for text in written], [row["completion"] for row in rows])


def _first_answer(text: str) -> str:
    for mark in NEXT_QUESTION:
        text = text.split(mark)[0]
    return text


def _compared(written: Sequence[str], truths: Sequence[str]) -> Recited:
    scores = [rouge_l(answer, truth, stem=False).f1 for answer, truth in zip(written, truths, strict=True)]
    return Recited(tuple(written), torch.tensor(scores, dtype=torch.float64))
