"""The two measures of KnowUnDo (Tian et al. 2024, arXiv 2407.01920), from teacher-forced token accuracy.

    unlearn success      100 - token accuracy on the validation questions on what is to be forgotten
    retention success    token accuracy on the validation questions on what is to be kept

Token accuracy is the mean over the questions of the percentage of an answer's tokens that are the most likely one given the question
and the true tokens before. The paper names both measures without a formula; this is what its released code computes. That code asks in
another form (question and answer with an empty line between them), so its numbers are not comparable with these to the digit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from unlearn_lib.data.batches import context_length
from unlearn_lib.data.examples import by_text, pieces
from unlearn_lib.data.questions import QuestionTask, question_rows
from unlearn_lib.metrics.accuracy import encoded_answer
from unlearn_lib.metrics.memorisation import memorisation_accuracy, right_tokens


@dataclass(frozen=True)
class KnowUnDoScores:
    """Both in percent, and better where higher. A model that knows nothing has an unlearn success near 100, so that neither says
    anything without the other."""

    unlearn_success: float
    retention_success: float


def knowundo_scores(model: Any, tokenizer: Any, task: QuestionTask, *, batch_size: int = 32) -> KnowUnDoScores:
    """Measure a model on the validation questions of a task.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        task: `load_task("knowundo", ...)`.
        batch_size: Texts in a forward pass.

    Raises:
        InputError: The task lacks `forget_val` or `retain_val`, or one of them is empty.

    Cost: a forward pass over the validation questions.
    """
    forget, retain = (token_accuracy(model, tokenizer, task[part], batch_size) for part in ("forget_val", "retain_val"))
    return KnowUnDoScores(100.0 - forget, retain)


@torch.no_grad()
def token_accuracy(model: Any, tokenizer: Any, rows: Iterable[Mapping[str, Any]], batch_size: int = 32) -> float:
    """The mean over the rows of the share of a completion's tokens that are the most likely one, in percent.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        rows: With `prompt` and `completion`. The end-of-text token is not part of a completion. What is longer than the model's
            context is measured in pieces.
        batch_size: Texts in a forward pass.

    Raises:
        InputError: No rows; a row without a prompt or a completion; a completion without a token that the model predicts.

    Cost: a forward pass over the rows.
    """
    length, examples = context_length(model, tokenizer), []
    for number, row in enumerate(question_rows(rows)):
        examples += pieces(replace(encoded_answer(tokenizer, row["prompt"], row["completion"]), row=number), length)
    right = right_tokens(model, examples, batch_size)
    return 100.0 * memorisation_accuracy([torch.cat([right[i] for i in group]) for group in by_text(examples)])
