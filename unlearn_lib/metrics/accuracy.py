"""Accuracy as the field measures it, on teacher-forced forward passes.

Multiple choice: the choice with the lowest summed NLL given the prompt. Last word: greedy decoding after the prompt produces
the completion exactly, which is the case when every one of its tokens is the most likely one given those before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.data.batches import Example, make_batches
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED, targets, token_logits, token_nll


@torch.no_grad()
def accuracy(model: Any, tokenizer: Any, test: Iterable[dict[str, Any]], *, batch_size: int = 64) -> float:
    """The share of right answers, in percent.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        test: Rows `{"prompt", "choices", "label"}` or `{"prompt", "completion"}`.
        batch_size: Sequences in a forward pass.

    Raises:
        InputError: No rows.

    Cost: one forward pass over every prompt with every choice.
    """
    rows = list(test)
    if not rows:
        raise InputError("accuracy needs at least one test question; the test set is empty")
    answers = [row["choices"] if "choices" in row else [row["completion"]] for row in rows]
    examples = [
        _encode(tokenizer, row["prompt"], answer) for row, choices in zip(rows, answers, strict=True) for answer in choices
    ]
    # Sorted by length, so that little is spent on padding.
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].input_ids))
    sums, exact = torch.empty(len(examples)), torch.empty(len(examples), dtype=torch.bool)
    start = 0
    for batch in make_batches([examples[i] for i in order], batch_size, model.device):
        logits_BTV = token_logits(model, batch)
        nll_BS, scored_BS = token_nll(logits_BTV, batch["labels"])
        right_BS = logits_BTV[:, :-1].argmax(-1) == targets(logits_BTV, batch["labels"])
        rows_here = torch.tensor(order[start : start + len(nll_BS)])
        sums[rows_here] = nll_BS.sum(-1).float().cpu()
        exact[rows_here] = (right_BS | ~scored_BS).all(-1).cpu()
        start += len(nll_BS)
    right, start = 0, 0
    for row, choices in zip(rows, answers, strict=True):
        mine: Tensor = sums[start : start + len(choices)]
        right += int(mine.argmin()) == row["label"] if "choices" in row else bool(exact[start])
        start += len(choices)
    return 100.0 * right / len(rows)


def _encode(tokenizer: Any, prompt: str, answer: str) -> Example:
    given = tokenizer(prompt)["input_ids"]
    scored = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return Example((*given, *scored), (*[IGNORED] * len(given), *scored))
