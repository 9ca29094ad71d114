"""Generation as a measurement: nothing of a model's own generation settings may change what it writes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.losses import without_autocast


def end_tokens(model: Any) -> tuple[int, ...]:
    """The tokens that end a text, by the model's configuration and its generation configuration; each says none, one or several."""
    found: list[int] = []
    for config in (model.config, getattr(model, "generation_config", None)):
        ids = getattr(config, "eos_token_id", None)
        found += ids if isinstance(ids, (list, tuple)) else [] if ids is None else [ids]
    return tuple(dict.fromkeys(found))


def until_end(written: Sequence[int], ends: Sequence[int]) -> tuple[int, ...]:
    """What was written up to and with the first token that ends a text; all of it where there is none."""
    length = next((i + 1 for i, token in enumerate(written) if token in ends), len(written))
    return tuple(written[:length])


def same_length(lengths: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """The positions of equal lengths together, in groups of at most `batch_size`: prompts of one length need no padding, which not every
    model leaves out of account when it generates."""
    groups: dict[int, list[int]] = defaultdict(list)
    for position, length in enumerate(lengths):
        groups[length].append(position)
    for group in groups.values():
        yield from (group[i : i + batch_size] for i in range(0, len(group), batch_size))


def write_on(model: Any, prompts_Bk: Tensor, processors: list[Any] | None = None, **settings: Any) -> Tensor:
    """`model.generate` with these settings and none of the model's own (beams, penalties, several sequences, forced tokens, ...),
    which are as before afterwards.

    Args:
        model: A causal language model, or a peft model on one.
        prompts_Bk: `[B, k]`, prompts of one length.
        processors: Called with (tokens so far, scores of the next) and return the scores that count.
        settings: Of transformers' `GenerationConfig`; what is not given has transformers' neutral value.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    with _settings(model, GenerationConfig(**settings)) as config, without_autocast():
        written: Tensor = model.generate(
            prompts_Bk,
            attention_mask=torch.ones_like(prompts_Bk),
            generation_config=config,
            logits_processor=LogitsProcessorList(processors or []),
        )
    return written


@torch.no_grad()
def greedy_continuations(
    model: Any,
    prompts: Sequence[tuple[int, ...]],
    n: int,
    *,
    ends: Sequence[int] | None = None,
    batch_size: int = 32,
    context: int | None = None,
) -> list[tuple[int, ...]]:
    """The greedy continuation of every prompt, in order, each of at most n tokens, up to and with one that ends a text.

    Args:
        model: A causal language model in evaluation mode.
        prompts: The prompts' tokens, at least one each; without `context`, prompt and continuation have to fit the model's.
        n: Tokens of a continuation at most.
        ends: The tokens that end a text; by default those of the model's configurations.
        batch_size: Prompts of one length at a time, so that nothing is padded.
        context: Tokens of prompt and continuation together at most, where that is less.

    Cost: a greedy generation of up to n tokens for every prompt.
    """
    ends = end_tokens(model) if ends is None else ends
    found: list[tuple[int, ...]] = [()] * len(prompts)
    for group in same_length([len(prompt) for prompt in prompts], batch_size):
        written_BT = write_on(
            model,
            torch.tensor([prompts[i] for i in group], device=model.device),
            do_sample=False,
            max_new_tokens=n if context is None else min(n, context - len(prompts[group[0]])),
            pad_token_id=ends[0] if ends else 0,
            eos_token_id=list(dict.fromkeys(ends)) or None,
        )
        for i, row in zip(group, written_BT.tolist(), strict=True):
            found[i] = until_end(row[len(prompts[i]) :], ends)
    return found


@contextmanager
def _settings(model: Any, config: Any) -> Iterator[Any]:
    """`generate` fills what a given configuration leaves open from the model's own, so that is out of the way for a while."""
    owners = [module for module in model.modules() if "generation_config" in vars(module)]
    before = [module.generation_config for module in owners]
    try:
        for module in owners:
            module.generation_config = config
        yield config
    finally:
        for module, own in zip(owners, before, strict=True):
            module.generation_config = own
