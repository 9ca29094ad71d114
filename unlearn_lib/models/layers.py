"""The hidden states of a model layer by layer, and how the model reads logits from the last of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.errors import InputError

PLACES = (
    ("model.layers", "model.norm", None),  # Llama, Mistral, Qwen, Gemma, Phi-3, OLMo
    ("model.layers", "model.final_layernorm", None),  # Phi, Persimmon
    ("model.decoder.layers", "model.decoder.final_layer_norm", "model.decoder.project_out"),  # OPT
    ("transformer.h", "transformer.ln_f", None),  # GPT-2, GPT-Neo, GPT-J, Bloom
    ("gpt_neox.layers", "gpt_neox.final_layer_norm", None),  # GPT-NeoX, Pythia
)
"""Where the layers, the norm behind the last of them and a projection behind that are found in a model."""


@dataclass(frozen=True)
class Reading:
    """How a model reads logits from hidden states.

    Attributes:
        layers: Its layers, in order.
        norm: The norm behind the last layer; None where there is none (OPT-350m).
        project: What changes the width before the head; None where nothing does.
        head: From hidden states to logits.
    """

    layers: Any
    norm: Any
    project: Any
    head: Any

    def logits(self, state_BTH: Tensor) -> Tensor:
        """`[B, T, V]`: what the model would say if this were the state behind its last layer."""
        for part in (self.norm, self.project):
            state_BTH = state_BTH if part is None else part(state_BTH)
        read: Tensor = self.head(state_BTH)
        return read

    @contextmanager
    def states(self) -> Iterator[list[Tensor]]:
        """Inside, the list is filled by a forward pass of the model: what enters the first layer, and what leaves every layer, before
        any final norm. Nothing of it stays on the model."""
        found: list[Tensor] = []

        def enters(_: Any, args: Any, kwargs: Any) -> None:
            found.append(args[0] if args else kwargs["hidden_states"])

        def leaves(_: Any, __: Any, out: Any) -> None:
            found.append(out[0] if isinstance(out, tuple) else out)

        hooks = [self.layers[0].register_forward_pre_hook(enters, with_kwargs=True)]
        hooks += [layer.register_forward_hook(leaves) for layer in self.layers]
        try:
            yield found
        finally:
            for hook in hooks:
                hook.remove()


def reading(model: Any) -> Reading:
    """How this model reads logits; a peft model's is that of the model inside.

    Raises:
        InputError: An architecture in which the parts are not where those of `PLACES` have them.
    """
    own = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = own.get_output_embeddings()
    for layers, norm, project in PLACES:
        found, (outer, name) = _part(own, layers), norm.rsplit(".", 1)
        if isinstance(found, torch.nn.ModuleList) and len(found) and hasattr(_part(own, outer), name) and head is not None:
            return Reading(found, _part(own, norm), None if project is None else _part(own, project), head)
    raise InputError(
        f"it is not known where the layers, the final norm and the head of a {type(own).__name__} are, so its layers cannot be read; "
        "give a model with the parts of Llama, OPT, GPT-2, GPT-Neo or GPT-NeoX"
    )


def _part(model: Any, path: str) -> Any:
    return reduce(lambda part, name: getattr(part, name, None), path.split("."), model)


DOWN = ("mlp.down_proj", "mlp.c_proj", "fc2", "mlp.fc2", "mlp.fc_out", "mlp.dense_4h_to_h")
"""Where in a layer the projection is with which its MLP ends: Llama and its kin, GPT-2 and GPT-Neo, OPT, Phi, GPT-J, GPT-NeoX."""


def down_projection(layer: Any) -> Any:
    """The module with which the MLP of a layer ends, which writes what the MLP found into the hidden state.

    Raises:
        InputError: A layer in which it is not where those of `DOWN` have it, such as one of several experts.
    """
    for path in DOWN:
        found = _part(layer, path)
        if found is not None:
            return found
    raise InputError(
        f"it is not known where the MLP of a {type(layer).__name__} ends; give a model with the layers of Llama, OPT, GPT-2, GPT-Neo, "
        "GPT-J, GPT-NeoX or Phi"
    )
