"""A set of models that this repository pre-trains: their shapes, what training them takes, where they lie, their manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearn_lib.errors import InputError, unknown

if TYPE_CHECKING:
    from unlearn_lib.models.corpora import Corpus

PAD, END = "<pad>", "<|endoftext|>"
PAD_ID, END_ID = 0, 1


@dataclass(frozen=True)
class ModelSpec:
    """Shape and pre-training of one model (AdamW, warm-up then cosine to zero).

    `neo` is GPT-Neo's architecture (alternating global and local attention, GELU), `opt` is OPT's (ReLU).
    """

    family: str
    width: int
    layers: int
    heads: int
    learning_rate: float
    steps: int
    stands_for: str


@dataclass(frozen=True)
class Recipe:
    """What the models of a set have in common.

    Attributes:
        kind: The first part of their names, as `nano` in `nano/opt-s`.
        called: What an error message calls one of them.
        specs: The models by name.
        folder: Where their files and the manifest lie.
        vocabulary, context: Tokens of the tokenizer, and of the longest sequence.
        local_window: Of GPT-Neo's local attention.
        batch, micro_batch: Sequences of a step, and how many of them go through the model at a time.
        warm_up: Steps.
        saved: Number format of the files.
        autocast: Whether matrix products are taken in bfloat16 on a GPU (never on a CPU).
        corpus: The texts, given the folder.
        command: What trains a model that is missing, with `{name}` for its name.
    """

    kind: str
    called: str
    specs: Mapping[str, ModelSpec]
    folder: Path
    vocabulary: int
    context: int
    local_window: int
    batch: int
    micro_batch: int
    warm_up: int
    saved: str
    autocast: bool
    corpus: Callable[[Path], Corpus]
    command: str

    @property
    def tokenizer(self) -> Path:
        """The folder of the tokenizer that all models of the set share."""
        return self.folder / "tokenizer"

    def model_folder(self, name: str) -> Path:
        """Where the files of a model lie: `nano/neo-s` -> .../neo-s."""
        return self.folder / name.removeprefix(f"{self.kind}/")

    def tokens(self, name: str, steps: int | None = None) -> int:
        """Tokens that a model is trained on."""
        return (self.specs[name].steps if steps is None else steps) * self.batch * self.context

    def manifest(self) -> dict[str, Any]:
        """`files` (SHA-256 by path) and `models` (size, tokens, losses, cost by name) of what was trained; empty before."""
        path = self.folder / "manifest.json"
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"files": {}, "models": {}}
        return found

    def trained(self, name: str) -> bool:
        """Whether the files of a model are there."""
        return name in self.manifest()["models"] and self.model_folder(name).is_dir()

    def place(self, name: str) -> tuple[Path, Path]:
        """The folders of a model and of its tokenizer.

        Raises:
            InputError: An unknown name, or a model that was not trained yet; the message says what trains it.
        """
        if name not in self.specs:
            raise unknown(self.called, name, self.specs)
        if not self.trained(name):
            raise self.missing(name)
        return self.model_folder(name), self.tokenizer

    def missing(self, name: str) -> InputError:
        """The error that says that a model was not trained yet, and what trains it."""
        return InputError(
            f"the model {name} was not trained yet: {self.folder} does not hold it; train it with "
            f"`{self.command.format(name=name)}`"
        )

    def config(self, spec: ModelSpec) -> Any:
        """The transformers configuration of a shape: no dropout, tied embeddings, eager attention."""
        from transformers import GPTNeoConfig, OPTConfig

        common: dict[str, Any] = {
            "vocab_size": self.vocabulary,
            "hidden_size": spec.width,
            "max_position_embeddings": self.context,
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
                window_size=self.local_window,
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


def file_hashes(root: Path) -> dict[str, str]:
    """SHA-256 of every file below `root` but the manifest, by relative path."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def files_of(manifest: Mapping[str, Any], name: str) -> dict[str, str]:
    """SHA-256 of the files that a model is loaded from, its tokenizer's among them, by path in the set's folder."""
    parts = (name.partition("/")[2] + "/", "tokenizer/")
    return {path: digest for path, digest in manifest["files"].items() if path.startswith(parts)}
