"""Accuracy as the field measures it, on teacher-forced forward passes.

Multiple choice: the choice with the lowest summed NLL given the prompt. Last word: greedy decoding after the prompt produces
the completion exactly, which is the case when every one of its tokens is the most likely one given those before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.data.batches import context_length, make_batches
from unlearn_lib.data.encoder import Encoder
from unlearn_lib.data.examples import Example, pieces
from unlearn_lib.errors import InputError
from unlearn_lib.losses import targets, token_logits, token_nll


def accuracy(model: Any, tokenizer: Any, test: Iterable[dict[str, Any]], *, batch_size: int = 64) -> float:
    """The share of right answers, in percent.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        test: Rows `{"prompt", "choices", "label"}` or `{"prompt", "completion"}`; prompt and answer are read as one text, as in training
            (see `Encoder`), without an EOS. Of prompts that are too long for the model the beginning is left out.
        batch_size: Sequences in a forward pass.

    Raises:
        InputError: No rows.

    Cost: one forward pass over every prompt with every choice.
    """
    return Questions(test, tokenizer, context_length(model, tokenizer)).accuracy(model, batch_size)


class Questions:
    """Test questions, read once for several models that share a tokenizer.

    Args:
        test, tokenizer: As of `accuracy`.
        length: The models' context, in tokens.

    Raises:
        InputError: No rows.
    """

    def __init__(self, test: Iterable[dict[str, Any]], tokenizer: Any, length: int) -> None:
        self.rows = list(test)
        if not self.rows:
            raise InputError("accuracy needs at least one test question; the test set is empty")
        self.answers = [row["choices"] if "choices" in row else [row["completion"]] for row in self.rows]
        asked = [(row["prompt"], answer) for row, choices in zip(self.rows, self.answers, strict=True) for answer in choices]
        examples = [
            piece
            for number, (prompt, answer) in enumerate(asked)
            for piece in pieces(replace(encoded_answer(tokenizer, prompt, answer), row=number), length)
        ]
        self.asked = len(asked)
        # Sorted by length, so that little is spent on padding.
        self.examples = sorted(examples, key=lambda example: len(example.input_ids))

    def accuracy(self, model: Any, batch_size: int = 64) -> float:
        """The share that a model in evaluation mode answers right, in percent. Cost: as of `accuracy`."""
        return 100.0 * int(self.right(model, batch_size).sum()) / len(self.rows)

    @torch.no_grad()
    def right(self, model: Any, batch_size: int = 64) -> Tensor:
        """`[n]`, bool: which questions a model in evaluation mode answers right, in the order of the rows; `accuracy_interval` makes an
        interval of it. Cost: as of `accuracy`."""
        sums, exact = torch.zeros(self.asked), torch.ones(self.asked, dtype=torch.bool)
        for start in range(0, len(self.examples), batch_size):
            group = self.examples[start : start + batch_size]
            (batch,) = make_batches(group, batch_size, model.device)
            logits_BTV = token_logits(model, batch)
            nll_BS, scored_BS = token_nll(logits_BTV, batch["labels"])
            right_BS = logits_BTV[:, :-1].argmax(-1) == targets(logits_BTV, batch["labels"])
            answers_here = torch.tensor([example.row for example in group])
            sums.index_add_(0, answers_here, nll_BS.sum(-1).float().cpu())
            wrong = answers_here[~(right_BS | ~scored_BS).all(-1).cpu()]
            exact[wrong] = False
        right, start = [], 0
        for row, choices in zip(self.rows, self.answers, strict=True):
            mine: Tensor = sums[start : start + len(choices)]
            right.append(int(mine.argmin()) == row["label"] if "choices" in row else bool(exact[start]))
            start += len(choices)
        return torch.tensor(right)


def encoded_answer(tokenizer: Any, prompt: str, answer: str) -> Example:
    """Prompt and answer as one text without an EOS, of which the answer is scored.

    Raises:
        InputError: The answer has no token that the model predicts.
    """
    found = Encoder(tokenizer).answer(prompt, answer, f"the question {prompt!r:.60}", end=False)
    if not found.scored:
        raise InputError(
            f"the question {prompt!r:.60} has an answer without a token that the model predicts: {answer!r}; remove it"
        )
    return found
