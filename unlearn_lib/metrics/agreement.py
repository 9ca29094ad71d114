"""How often two models write the same: greedy continuations of the same prompts, compared token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unlearn_lib.data.batches import Example, positions
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED
from unlearn_lib.metrics.generation import end_tokens, until_end, write_on


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
    ours, theirs = (_continued(each, prompts, n, ends, batch_size) for each in (reference, model))
    shares = [_equal(one, other) for one, other in zip(ours, theirs, strict=True)]
    return Agreement(sum(share == 1.0 for share in shares) / len(shares), sum(shares) / len(shares))


def _prompt(example: Example, prefix: int) -> tuple[int, ...]:
    unscored = next((i for i, label in enumerate(example.labels) if label != IGNORED), 0)
    return example.input_ids[: unscored or max(1, min(prefix, len(example.input_ids) - 1))]


def _equal(one: Sequence[int], other: Sequence[int]) -> float:
    return sum(a == b for a, b in zip(one, other, strict=False)) / max(len(one), len(other))


@torch.no_grad()
def _continued(
    model: Any, prompts: Sequence[tuple[int, ...]], n: int, ends: tuple[int, ...], batch_size: int
) -> list[tuple[int, ...]]:
    """The continuation of every prompt, in order."""
    found: list[tuple[int, ...]] = [()] * len(prompts)
    for group in _of_one_length(prompts, batch_size):
        written_BT = write_on(
            model,
            torch.tensor([prompts[i] for i in group], device=model.device),
            do_sample=False,
            max_new_tokens=n,
            pad_token_id=ends[0] if ends else 0,
            eos_token_id=list(ends) or None,
        )
        for i, row in zip(group, written_BT.tolist(), strict=True):
            found[i] = until_end(row[len(prompts[i]) :], ends)
    return found


def _of_one_length(prompts: Sequence[tuple[int, ...]], batch_size: int) -> Iterator[list[int]]:
    """The numbers of the prompts in groups of one length, so that nothing is padded."""
    lengths: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        lengths.setdefault(len(prompt), []).append(number)
    for numbers in lengths.values():
        yield from (numbers[i : i + batch_size] for i in range(0, len(numbers), batch_size))
