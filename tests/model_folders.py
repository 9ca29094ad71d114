"""Saved models for tests of loading: a tiny Llama with its tokenizer, and what can be done to its files."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

WORDS = {"vocab_size": 1024, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
"""The embedded models' vocabulary, so that their tokenizer serves."""


def llama(**settings: Any) -> Any:
    """A Llama with random weights from a seed; its embeddings are not tied."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        **{**WORDS, "max_position_embeddings": 64, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0, **settings}
    )
    return LlamaForCausalLM(config).eval()


def save(model: Any, tokenizer: Any, folder: Path, **how: Any) -> Path:
    model.save_pretrained(folder, **how)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def with_tokens(tokenizer: Any, *tokens: str) -> Any:
    """A copy of a tokenizer with further special tokens."""
    own = copy.deepcopy(tokenizer)
    own.add_special_tokens({"additional_special_tokens": list(tokens)})
    return own


def change(folder: Path, file: str, **values: Any) -> None:
    """Set values of a JSON file."""
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def rewrite(folder: Path, by: Callable[[dict[str, Tensor]], dict[str, Tensor]], file: str = "model.safetensors") -> None:
    """Change the tensors of a file, or their names."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / file)
    (folder / file).unlink()
    save_file({name: tensor.contiguous() for name, tensor in by(tensors).items()}, folder / file, {"format": "pt"})


def cut(path: Path, to: int) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:to])
