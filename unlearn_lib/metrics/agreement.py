"""How often two models write the same: greedy continuations of the same prompts, compared token by token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unlearn_lib.data.batches import Example, positions
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED
from unlearn_lib.metrics.generation import end_tokens, greedy_continuations


@dataclass(frozen=True)
class Agreement:
    """How two models' greedy continuations agree.

    Attributes:
        same: The share of the texts whose two continuations are equal, between 0 and 1.
        tokens: The mean over the texts of the share of positions that hold equal tokens, between 0 and 1.
    """

    same: float
    tokens: float


def greedy_agreement(
    reference: Any, model: Any, examples: Sequence[Example], n: int = 20, *, prefix: int = 10, batch_size: int = 32
) -> Agreement:
    """How two models' greedy continuations of the same prompts agree. Read it beside its floor, the agreement of two models that
    were retrained with different seeds, which is well below 1.

    Args:
        reference, model: Causal language models in evaluation mode that share a tokenizer.
        examples: The texts. The prompt is what stands before a text's first scored token; where everything is scored it is the
            text's first `prefix` tokens, or all but the last of a shorter text. Of prompts that leave no room for the
            continuation in a model's context the beginning is left out.
        n: Tokens of a continuation at most; it ends sooner with a token that ends a text by the reference's configuration.
        prefix: Tokens of the prompts of texts that have none of their own.
        batch_size: Prompts at a time.

    Returns:
        An `Agreement`. A continuation that is shorter than the other disagrees at the positions that it lacks.

    Raises:
        InputError: No texts; n or prefix below 1; n leaves no room for a prompt in a model's context.

    Cost: a greedy generation of up to n tokens of each model for every text.
    """
    if not examples:
        raise InputError("there are no texts to continue, so the models cannot be compared; give at least one text")
    if min(n, prefix) < 1:
        raise InputError(f"a continuation and its prompt have at least one token each; got n={n} and prefix={prefix}")
    room = min(positions(reference), positions(model)) - n
    if room < 1:
        raise InputError(f"a continuation of n={n} tokens leaves no room for a prompt in the models' context; lower n")
    prompts = [_prompt(example, prefix)[-room:] for example in examples]
    ends = end_tokens(reference)
    ours, theirs = (greedy_continuations(each, prompts, n, ends=ends, batch_size=batch_size) for each in (reference, model))
    shares = [_equal(one, other) for one, other in zip(ours, theirs, strict=True)]
    return Agreement(sum(share == 1.0 for share in shares) / len(shares), sum(shares) / len(shares))


def _prompt(example: Example, prefix: int) -> tuple[int, ...]:
    unscored = next((i for i, label in enumerate(example.labels) if label != IGNORED), 0)
    return example.input_ids[: unscored or max(1, min(prefix, len(example.input_ids) - 1))]


def _equal(one: Sequence[int], other: Sequence[int]) -> float:
    return sum(a == b for a, b in zip(one, other, strict=False)) / max(len(one), len(other))
