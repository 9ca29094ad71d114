"""The loss of every text of a data set."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from unlearn_lib.data.batches import LongTexts, encode, make_batches, sequence_length
from unlearn_lib.data.examples import text_means
from unlearn_lib.data.given import rows_of
from unlearn_lib.errors import InputError
from unlearn_lib.losses import evaluate


def text_losses(
    model: Any,
    tokenizer: Any,
    rows: Any,
    *,
    batch_size: int = 32,
    max_length: int | None = None,
    long_texts: LongTexts = "split",
    assistant_only: bool = True,
) -> Tensor:
    """`[n]`: for every row the mean NLL over its scored tokens, in nats.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        rows: A data set with the column `text`, or `prompt` and `completion` (then only the completion is scored), or `messages`, as
            `rows_of` takes it.
        batch_size: Sequences in a forward pass.
        max_length: Of a sequence, in tokens; default: the model's context.
        long_texts, assistant_only: As of `encode`; of a long text the mean is over all its scored tokens, each scored once.

    Raises:
        InputError: No texts, or something that is no data set; `max_length` out of range.

    Cost: one forward pass over the texts (over up to 4/3 of their tokens where they are split).
    """
    given = rows_of(rows)
    if not given:
        raise InputError("the data set is empty; give at least one text")
    length = sequence_length(model, tokenizer, max_length)
    examples = encode(given, tokenizer, length, long_texts=long_texts, assistant_only=assistant_only).examples
    return text_means(evaluate(model, make_batches(examples, batch_size, model.device)), examples)
