"""The original model beside the one that a method changes: a copy of it, or, of a model that is divided among processes, its weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.curvature.gradient import trainable
from unlearn_lib.shards import divided, own


def original_of(model: Any) -> Any:
    """The model as it is now, for its predictions alone. Memory: a copy of the model, or of this process's part of its weights."""
    return Original(model) if divided(model) else copy.deepcopy(model).requires_grad_(False)


class Original:
    """A divided model with the weights that it had when this was made, which a pass puts back for as long as it takes.

    PyTorch takes no copy of a divided model. Weights may be exchanged between a pass of the model itself and its backward pass, because
    that gathers the layers again.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.params = model, trainable(model)
        self.values = {name: p.detach().clone() for name, p in self.params.items()}

    @torch.no_grad()
    def __call__(self, **inputs: Any) -> Any:
        self._exchange()
        try:
            return self.model(**inputs)
        finally:
            self._exchange()

    def named_parameters(self) -> Iterable[tuple[str, Tensor]]:
        """The trainable parameters, divided as the model's are."""
        return self.values.items()

    def _exchange(self) -> None:
        for name, p in self.params.items():
            here, there = own(p), own(self.values[name])
            now = here.clone()
            here.copy_(there)
            there.copy_(now)
