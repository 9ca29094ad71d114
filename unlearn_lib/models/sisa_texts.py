"""The texts of a slice in a file, as tokens; in its header the hash of every text, by which it is found without reading the others."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from unlearn_lib.data.examples import Example
from unlearn_lib.models.suited import refused

Text = tuple[Example, ...]
"""The sequences of one text, in order."""


def text_hash(text: Text) -> str:
    """The SHA-256 of a text's tokens, piece by piece; what is scored of it does not matter."""
    return hashlib.sha256(json.dumps([piece.input_ids for piece in text]).encode()).hexdigest()


def write_texts(path: Path, texts: Sequence[Text]) -> None:
    """Write texts as tokens."""
    from safetensors.torch import save_file

    pieces = [piece for text in texts for piece in text]
    tensors = {
        "input_ids": _numbers(token for piece in pieces for token in piece.input_ids),
        "labels": _numbers(label for piece in pieces for label in piece.labels),
        "lengths": _numbers(len(piece.input_ids) for piece in pieces),
        "pieces": _numbers(len(text) for text in texts),
    }
    save_file(tensors, path, metadata={"hashes": json.dumps([text_hash(text) for text in texts])})


def read_hashes(path: Path) -> list[str]:
    """The hashes of the texts in a file of `write_texts`, in order.

    Raises:
        InputError: The file is damaged.
    """
    from safetensors import safe_open

    with refused(f"the texts in {path} cannot be read"), safe_open(path, "pt") as file:
        found = [str(one) for one in json.loads((file.metadata() or {})["hashes"])]
        if len(found) != file.get_slice("pieces").get_shape()[0]:
            raise ValueError("it has not as many hashes as texts")
    return found


def read_texts(path: Path) -> list[Text]:
    """The texts of `write_texts`.

    Raises:
        InputError: The file is damaged.
    """
    from safetensors.torch import load_file

    with refused(f"the texts in {path} cannot be read"):
        found = load_file(path)
    lengths = found["lengths"].tolist()
    ids, labels = (tuple(tuple(part.tolist()) for part in found[name].split(lengths)) for name in ("input_ids", "labels"))
    pieces = iter([Example(*both) for both in zip(ids, labels, strict=True)])
    return [tuple(next(pieces) for _ in range(count)) for count in found["pieces"].tolist()]


def _numbers(values: Iterable[int]) -> torch.Tensor:
    return torch.tensor(list(values), dtype=torch.int64)
