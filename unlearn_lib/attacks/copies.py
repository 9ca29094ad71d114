"""Copies of a model that an attack may change."""

from __future__ import annotations

import copy
from typing import Any

import torch


def working_copy(model: Any) -> Any:
    """A copy with the model's modes and `requires_grad`, on its device. It can be changed and trained even where the caller, or
    whoever loaded the model, has switched gradients off by `torch.inference_mode()`. Cost: the model's memory."""
    with torch.inference_mode(False):
        return copy.deepcopy(model)
