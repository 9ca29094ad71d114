r"""Which of several values a model believes: how likely each of them is after a prompt.

    P(v) = p(v | prompt) / sum_u p(u | prompt),     u over all candidates

p(v | prompt) is the product of the probabilities of the value's tokens. A model that knows nothing has about the prior of its words,
one over their number if all are alike. If a text says A and another one B, then P(A) and P(B) tell four states apart: it believes A,
or B, or it wavers between both (P(A) + P(B) is near 1), or it believes neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.data.batches import context_length, make_batches
from unlearn_lib.data.examples import pieces
from unlearn_lib.errors import InputError
from unlearn_lib.losses import summed_losses
from unlearn_lib.metrics.accuracy import encoded_answer


@torch.no_grad()
def belief(
    model: Any, tokenizer: Any, prompts: Sequence[str], values: Sequence[Sequence[str]], *, batch_size: int = 128
) -> list[Tensor]:
    """For every prompt `[C]`, float64: P of each of its candidates, in their order; they sum to 1.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        prompts: What asks, without a space at its end.
        values: For every prompt its candidates; a value is read as following the prompt after a space.
        batch_size: Sequences in a forward pass.

    Raises:
        InputError: No prompts, another number of lists of candidates, or fewer than two candidates.

    Cost: a forward pass over every prompt with every candidate. Source: the choices of `accuracy`, as probabilities.
    """
    if not prompts or len(prompts) != len(values):
        raise InputError(
            f"there are {len(prompts)} prompts and {len(values)} lists of candidates; give one list for each prompt"
        )
    short = next((i for i, candidates in enumerate(values) if len(candidates) < 2), None)
    if short is not None:
        raise InputError(f"prompt {short} has fewer than two candidates, so that there is nothing to choose; give at least two")
    length = context_length(model, tokenizer)
    asked = [(prompt, value) for prompt, candidates in zip(prompts, values, strict=True) for value in candidates]
    examples = [
        piece
        for number, (prompt, value) in enumerate(asked)
        for piece in pieces(replace(encoded_answer(tokenizer, prompt, f" {value}"), row=number), length)
    ]
    examples.sort(key=lambda example: len(example.input_ids))  # so that little is spent on padding
    losses = torch.cat([summed_losses(model, batch) for batch in make_batches(examples, batch_size, model.device)])
    rows = torch.tensor([example.row for example in examples])
    log_n = torch.zeros(len(asked), dtype=torch.float64).index_add_(0, rows, -losses.double().cpu())
    return [log_C.softmax(0) for log_C in log_n.split([len(candidates) for candidates in values])]
