"""The six embedded models: their shapes, and where their files lie.

`neo` is GPT-Neo's architecture (alternating global and local attention, GELU), `opt` is OPT's (ReLU); s, m and l stand for
the paper's 125M, 1.3B and 2.7B. `pretraining.py` makes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "nano_models"
TOKENIZER = FOLDER / "tokenizer"
VOCABULARY = 1024
CONTEXT = 256
LOCAL_WINDOW = 64
PAD, END = "<pad>", "<|endoftext|>"
PAD_ID, END_ID = 0, 1


@dataclass(frozen=True)
class NanoSpec:
    """Shape and pre-training recipe of one embedded model (AdamW, warm-up then cosine to zero)."""

    family: str
    width: int
    layers: int
    heads: int
    learning_rate: float
    steps: int
    stands_for: str


SPECS: dict[str, NanoSpec] = {
    f"nano/{family}-{size}": NanoSpec(family, *shape)
    for family in ("neo", "opt")
    for size, shape in {
        "s": (64, 3, 4, 3e-3, 2200, "125M"),
        "m": (128, 4, 4, 2e-3, 1600, "1.3B"),
        "l": (192, 6, 6, 1.2e-3, 1500, "2.7B"),
    }.items()
}


def folder(name: str) -> Path:
    """Where the files of an embedded model lie: `nano/neo-s` -> .../nano_models/neo-s."""
    return FOLDER / name.removeprefix("nano/")


def config(spec: NanoSpec) -> Any:
    """The transformers configuration of a spec: no dropout, tied embeddings, eager attention."""
    from transformers import GPTNeoConfig, OPTConfig

    common: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": spec.width,
        "max_position_embeddings": CONTEXT,
        "bos_token_id": END_ID,
        "eos_token_id": END_ID,
        "pad_token_id": PAD_ID,
        "attention_dropout": 0.0,
        "attn_implementation": "eager",
    }
    if spec.family == "neo":
        layers: list[Any] = [[["global", "local"], spec.layers // 2]]
        if spec.layers % 2:
            layers.append([["global"], 1])
        return GPTNeoConfig(
            num_layers=spec.layers,
            num_heads=spec.heads,
            attention_types=layers,
            window_size=LOCAL_WINDOW,
            resid_dropout=0.0,
            embed_dropout=0.0,
            **common,
        )
    return OPTConfig(
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        ffn_dim=4 * spec.width,
        word_embed_proj_dim=spec.width,
        dropout=0.0,
        **common,
    )
