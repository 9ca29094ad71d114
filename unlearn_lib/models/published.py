"""The shapes of the paper's six models as published with them, for plans where not even a configuration is at hand.

A test checks each by the number of parameters that it gives, which does not depend on the number of heads and the window.
"""

from __future__ import annotations

from typing import Any


def _neo(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "gpt_neo",
        "vocab_size": 50257,
        "max_position_embeddings": 2048,
        "hidden_size": width,
        "num_layers": layers,
        "num_heads": heads,
        "attention_types": [[["global", "local"], layers // 2]],
        "window_size": 256,
    }


def _opt(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "model_type": "opt",
        "vocab_size": 50272,
        "max_position_embeddings": 2048,
        "hidden_size": width,
        "word_embed_proj_dim": width,
        "ffn_dim": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


PUBLISHED: dict[str, dict[str, Any]] = {
    "EleutherAI/gpt-neo-125m": _neo(768, 12, 12),
    "EleutherAI/gpt-neo-1.3B": _neo(2048, 24, 16),
    "EleutherAI/gpt-neo-2.7B": _neo(2560, 32, 20),
    "facebook/opt-125m": _opt(768, 12, 12),
    "facebook/opt-1.3b": _opt(2048, 24, 32),
    "facebook/opt-2.7b": _opt(2560, 32, 32),
}
"""Arguments of transformers' configuration, by the model's name on the hub."""


def published_config(name: str) -> Any | None:
    """The transformers configuration of one of the six, None for another name. Upper and lower case are the same, as on the hub."""
    from transformers import AutoConfig

    shape = next((shape for known, shape in PUBLISHED.items() if known.lower() == name.lower()), None)
    return None if shape is None else AutoConfig.for_model(**shape)
