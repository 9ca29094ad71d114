"""What a model answers: greedy decoding of many prompts, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unlearn_lib.data.batches import context_length
from unlearn_lib.data.encoder import Encoder
from unlearn_lib.errors import InputError
from unlearn_lib.metrics.generation import end_tokens, greedy_continuations

Ids = tuple[int, ...]


def answers(model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int, batch_size: int = 32) -> list[str]:
    """What the model writes after each prompt by greedy decoding, in the prompts' order; the blank before the first word is part of it.

    Only prompts of one length are decoded together, so that there is no padding and an answer does not depend on the batch that its
    prompt is in (but for rounding, where two tokens are equally likely to the last digit).

    Args:
        model: A causal language model in evaluation mode. Of its settings of generation only the end-of-text tokens count.
        tokenizer: Its tokenizer; a prompt is read as in training (see `Encoder`), without an EOS.
        prompts: Texts that are not empty.
        max_new_tokens: An answer ends with the end-of-text token of the model or of the tokenizer, after so many tokens, or where the
            model's context ends.
        batch_size: Prompts at a time.

    Raises:
        InputError: An empty prompt, one that fills the model's context, or `max_new_tokens` or `batch_size` below 1.

    Cost: a greedy generation for every prompt, some two FLOPs per parameter and token with a key-value cache.
    """
    encoder = Encoder(tokenizer)
    encoded = [encoder.answer(prompt, "", f"prompt {number}", end=False).input_ids for number, prompt in enumerate(prompts)]
    ends = (*end_tokens(model), *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]))
    written = continued(model, encoded, max_new_tokens, context_length(model, tokenizer), ends, batch_size)
    return [as_text(tokenizer, ids) for ids in written]


def continued(
    model: Any, prompts: Sequence[Ids], max_new_tokens: int, context: int, ends: Sequence[int], batch_size: int = 32
) -> list[Ids]:
    """As `answers`, of tokens: what follows each prompt up to the first of the tokens `ends`, which is left out.

    Args:
        model: A causal language model in evaluation mode.
        prompts: Of at least one token each.
        max_new_tokens: As of `answers`.
        context: The model's context, in tokens.
        ends: The tokens that end a text.
        batch_size: Prompts at a time.

    Raises:
        InputError: As of `answers`.
    """
    if min(max_new_tokens, batch_size) < 1:
        raise InputError(f"max_new_tokens and batch_size are at least 1; got {max_new_tokens} and {batch_size}")
    for number, ids in enumerate(prompts):
        if not 0 < len(ids) < context:
            raise InputError(
                f"prompt {number} has {len(ids)} tokens, and the model's context holds {context}: a prompt has at least one token and "
                "leaves room for one more; shorten the prompt or leave it out"
            )
    written = greedy_continuations(model, prompts, max_new_tokens, ends=ends, batch_size=batch_size, context=context)
    return [ids[:-1] if ids and ids[-1] in ends else ids for ids in written]


def as_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """Tokens as text, without special tokens."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True))
