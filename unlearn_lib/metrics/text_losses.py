"""The loss of every text of a data set."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from unlearn_lib.data.batches import context_length, encode, make_batches
from unlearn_lib.losses import evaluate


def text_losses(model: Any, tokenizer: Any, rows: Any, *, batch_size: int = 32, max_length: int | None = None) -> Tensor:
    """`[n]`: for every row the mean NLL over its scored tokens, in nats.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        rows: A data set with the column `text`, or `prompt` and `completion` (then only the completion is scored).
        batch_size: Sequences in a forward pass.
        max_length: Longer texts are cut to this many tokens; default: the model's context.

    Cost: one forward pass over the texts.
    """
    examples = encode(rows, tokenizer, max_length or context_length(model, tokenizer)).examples
    return evaluate(model, make_batches(examples, batch_size, model.device))
