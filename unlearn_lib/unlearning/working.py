"""The model that a method works on, in evaluation mode and float32, and what its result takes over from the model that was given."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unlearn_lib.models.master_weights import widen


def working_copy(model: Any) -> Any:
    """A copy of the model to work on."""
    return widened(copy.deepcopy(model))


def widened(model: Any) -> Any:
    """The model itself, made ready to be worked on."""
    widen(model.eval())
    return model


@dataclass(frozen=True)
class Flags:
    """The training modes of a model's modules and the `requires_grad` of its parameters, by name."""

    training: Mapping[str, bool]
    requires_grad: Mapping[str, bool]

    @classmethod
    def of(cls, model: Any) -> Flags:
        """Those of a model as it is."""
        return cls(
            {name: module.training for name, module in model.named_modules()},
            {name: p.requires_grad for name, p in model.named_parameters()},
        )

    def give(self, result: Any) -> None:
        """Give them to a result, and take its gradients away. Modules that the given model does not have get the mode of the whole."""
        result.train(self.training[""])
        for name, module in result.named_modules():
            module.training = self.training.get(name, module.training)
        self.trained(result)
        for p in result.parameters():
            p.grad = None

    def trained(self, other: Any) -> Any:
        """The other model, of which the same parameters require a gradient from now on."""
        for name, p in other.named_parameters():
            p.requires_grad_(self.requires_grad.get(name, p.requires_grad))
        return other
