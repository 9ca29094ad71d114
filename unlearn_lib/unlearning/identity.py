"""What the steps of a run depend on, as one key: runs with the same key go through the same steps."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import torch

from unlearn_lib.data.batches import Example
from unlearn_lib.methods.base import Inputs, Method
from unlearn_lib.shards import whole


def identity(method: Method, inputs: Inputs, models: Iterable[Any]) -> str:
    """A SHA-256 over the method and its options, the seed, the texts as tokens, how many go through the model at a time, the
    weights of the models that the steps start from, which of them are trained, and the version of torch.

    Of files that options name (a small model, refusals) the name enters, and not what is in them.

    Cost: every weight is read once.
    """
    digest = hashlib.sha256()
    settings = {
        "method": method.name,
        "options": method.model_dump(mode="json"),
        "seed": inputs.seed,
        "at_a_time": [inputs.batch_size, inputs.batch_tokens],
        "forget": _tokens(inputs.forget),
        "retain": _tokens(inputs.retain),
        "holdout": _tokens(inputs.holdout),
        "torch": version("torch"),
    }
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for model in models:
        for name, p in model.named_parameters():
            digest.update(f"{name} {p.requires_grad} {p.dtype} {tuple(p.shape)}".encode())
            digest.update(whole(p).detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tokens(examples: Iterable[Example]) -> list[list[Any]]:
    return [[list(example.input_ids), list(example.labels), example.row] for example in examples]
