"""The loss of every text of a data set."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from unlearn_lib.data.batches import encode, make_batches, sequence_length
from unlearn_lib.data.given import rows_of
from unlearn_lib.errors import InputError
from unlearn_lib.losses import evaluate


def text_losses(model: Any, tokenizer: Any, rows: Any, *, batch_size: int = 32, max_length: int | None = None) -> Tensor:
    """`[n]`: for every row the mean NLL over its scored tokens, in nats.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        rows: A data set with the column `text`, or `prompt` and `completion` (then only the completion is scored), as `rows_of`
            takes it.
        batch_size: Sequences in a forward pass.
        max_length: Longer texts are cut to this many tokens; default: the model's context.

    Raises:
        InputError: No texts, or something that is no data set; `max_length` out of range.

    Cost: one forward pass over the texts.
    """
    given = rows_of(rows)
    if not given:
        raise InputError("the data set is empty; give at least one text")
    examples = encode(given, tokenizer, sequence_length(model, tokenizer, max_length)).examples
    return evaluate(model, make_batches(examples, batch_size, model.device))
