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
