"""What models are pre-trained on: texts for the tokenizer, blocks of tokens in a fixed order, blocks that are held out."""

from __future__ import annotations

import itertools
import json
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from unlearn_lib.data.nano.corpus import documents
from unlearn_lib.files import new_file
from unlearn_lib.models import interpreter
from unlearn_lib.models.recipes import END_ID

if TYPE_CHECKING:
    from torch import Tensor

CORPUS_SEED, HELD_OUT_SEED = 0, 1
HELD_OUT_BLOCKS = 64
TOKENIZED_AT_A_TIME = 256


class Corpus(Protocol):
    """What pre-training asks of its texts."""

    def tokenizer_texts(self) -> Iterator[str]:
        """The texts that the tokenizer is made from."""

    def blocks(self, tokenizer: Any, context: int, start: int) -> Iterator[Tensor]:
        """Blocks of token ids without end, `[context]` each, from block number `start` on."""

    def held_out(self, tokenizer: Any, context: int) -> dict[str, Tensor]:
        """Blocks that are not trained on, `[n, context]`, by the name that the mean loss on them has in the manifest."""

    def facts(self) -> dict[str, Any]:
        """What the manifest says about the texts of a model."""


def packed(texts: Iterable[str], tokenizer: Any, context: int) -> Iterator[Tensor]:
    """The texts one after the other, each ended by the end-of-text token, cut into blocks of `[context]` token ids; what does not
    fill the last block is dropped."""
    import torch  # here, so that a profile of the reproduction can name a corpus without loading it

    stream = iter(texts)
    pending: list[int] = []
    while some := list(islice(stream, TOKENIZED_AT_A_TIME)):
        for ids in tokenizer(some, verbose=False)["input_ids"]:
            pending += [*ids, END_ID]
        whole = len(pending) // context * context
        for i in range(0, whole, context):
            yield torch.tensor(pending[i : i + context])
        pending = pending[whole:]


@dataclass(frozen=True)
class Generated:
    """The generated documents, without end and each of them once.

    Attributes:
        tokenizer_documents: So many documents make the tokenizer.
    """

    tokenizer_documents: int = 20_000

    def tokenizer_texts(self) -> Iterator[str]:
        return islice(documents(CORPUS_SEED), self.tokenizer_documents)

    def blocks(self, tokenizer: Any, context: int, start: int) -> Iterator[Tensor]:
        return islice(packed(documents(CORPUS_SEED), tokenizer, context), start, None)

    def held_out(self, tokenizer: Any, context: int) -> dict[str, Tensor]:
        return {"held_out_loss": _first_blocks(packed(documents(HELD_OUT_SEED), tokenizer, context))}

    def facts(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class Mixed:
    """Generated documents and the interpreter's own texts, tokenized once into a file and read in many passes.

    Every pass takes all blocks in an order drawn from its number, so that block number k is the same whenever it is asked for.

    Attributes:
        folder: Where the file `corpus.safetensors` is kept.
        documents: How many generated documents.
        interpreter_texts: At most so many of the interpreter's texts, None for all.
        tokenizer_documents: So many documents, and all the interpreter's texts, make the tokenizer.
    """

    folder: Path
    documents: int
    interpreter_texts: int | None = None
    tokenizer_documents: int = 20_000

    def tokenizer_texts(self) -> Iterator[str]:
        return itertools.chain(islice(documents(CORPUS_SEED), self.tokenizer_documents), self._interpreter(held_out=False))

    def blocks(self, tokenizer: Any, context: int, start: int) -> Iterator[Tensor]:
        import torch

        every = self._tokenized(tokenizer, context)["train"]
        for number in itertools.count(start // len(every)):
            order = torch.randperm(len(every), generator=torch.Generator().manual_seed(number))
            yield from (every[i].long() for i in order[max(0, start - number * len(every)) :].tolist())

    def held_out(self, tokenizer: Any, context: int) -> dict[str, Tensor]:
        kept = self._tokenized(tokenizer, context)
        return {name: kept[name].long() for name in kept if name != "train"}

    def facts(self) -> dict[str, Any]:
        from safetensors import safe_open

        with safe_open(self._path, "pt") as file:
            found: dict[str, Any] = json.loads(file.metadata()["facts"])
        return found

    @property
    def _path(self) -> Path:
        return self.folder / "corpus.safetensors"

    def _interpreter(self, held_out: bool) -> Iterator[str]:
        return islice(interpreter.texts(held_out), self.interpreter_texts)

    def _tokenized(self, tokenizer: Any, context: int) -> dict[str, Tensor]:
        """Blocks `train`, `held_out_loss` (generated) and `held_out_loss_python`, int32; made and kept when they are first needed."""
        import torch
        from safetensors.torch import load_file, save_file

        if not self._path.exists():
            generated = packed(islice(documents(CORPUS_SEED), self.documents), tokenizer, context)
            python = torch.stack(list(packed(self._interpreter(held_out=False), tokenizer, context))).int()
            train = torch.cat([torch.stack([block.int() for block in generated]), python])
            parts = {
                "train": train,
                "held_out_loss": _first_blocks(packed(documents(HELD_OUT_SEED), tokenizer, context)).int(),
                "held_out_loss_python": _first_blocks(packed(self._interpreter(held_out=True), tokenizer, context)).int(),
            }
            facts = {
                "documents": self.documents,
                "corpus_tokens": train.numel(),
                "corpus_tokens_python": python.numel(),
                "corpus_python": platform.python_version(),
            }
            with new_file(self._path) as temporary:
                save_file(parts, temporary, metadata={"facts": json.dumps(facts)})
        return load_file(self._path)


def _first_blocks(blocks: Iterator[Tensor]) -> Tensor:
    import torch

    return torch.stack(list(islice(blocks, HELD_OUT_BLOCKS)))
