"""One key-value cache for several models that read the same text: the layers of all, one model after the other.

`generate` of transformers keeps one cache, which it reorders for beams, repeats and crops layer by layer. What it does with the whole
is thereby done for every model, and each model gets a cache that holds its own layers of the whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from unlearn_lib.errors import InputError


def joint_cache(models: Sequence[Any]) -> DynamicCache | None:
    """An empty cache for these models; None where one of them keeps something else than keys and values, or wraps another model."""
    found = [_layers(model) for model in models]
    if not all(found):
        return None
    whole = DynamicCache()
    whole.layers = [layer for own in found for layer in own]
    return whole


def own_caches(whole: Any, models: Sequence[Any]) -> list[DynamicCache]:
    """For every model the cache of its own layers, which are those of the whole.

    Raises:
        InputError: A cache that `joint_cache` has not made for these models.
    """
    counts = [len(_layers(model)) for model in models]
    if not all(counts) or len(whole.layers) != sum(counts):
        raise InputError(
            "the key-value cache is not one for all models of this sum; leave past_key_values away, so that generate makes one"
        )
    found, start = [], 0
    for count in counts:
        found.append(DynamicCache())
        found[-1].layers = whole.layers[start : start + count]
        start += count
    return found


def _layers(model: Any) -> list[Any]:
    if not isinstance(model, PreTrainedModel) or not model._supports_default_dynamic_cache():
        return []
    layers = DynamicCache(config=model.config).layers
    return list(layers) if all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers) else []
