"""A stand-in for a model whose logits are its parameters, for losses that can be worked out by hand."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.losses import IGNORED
from unlearn_lib.methods.descent import Step


class FreeLogits(torch.nn.Module):
    """Gives the same logits `[B, T, V]` whatever it reads."""

    def __init__(self, logits_BTV: Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits_BTV.clone())

    def forward(self, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits)


def drawn(B: int, T: int, V: int, seed: int = 0) -> FreeLogits:
    return FreeLogits(2 * torch.randn(B, T, V, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))


def step(labels: Sequence[Sequence[int]], original: Any = None) -> Step:
    """A step on texts with these labels, `IGNORED` where nothing is scored."""
    labels_BT = torch.tensor(labels)
    batch = {"input_ids": labels_BT.clamp_min(0), "attention_mask": torch.ones_like(labels_BT), "labels": labels_BT}
    return Step(batch, None, original)


__all__ = ["IGNORED", "FreeLogits", "drawn", "step"]
