"""Which kernels a mixture of experts runs with while curvature is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

REHEARSAL = "unlearn_lib-rehearsal"


@contextmanager
def eager_experts(model: Any, *, contents: bool = True) -> Iterator[None]:
    """Expert after expert (transformers' eager kernels) inside; the model's own choice is restored.

    The default, one grouped product for all experts, has no forward derivative and no float64. Where there are only shapes
    (`contents=False`: a plan's rehearsal) no token can choose its experts, and each is given as many.
    """
    before = model.get_experts_implementation() if hasattr(model, "get_experts_implementation") else {}
    if all(chosen in (None, "eager") for chosen in before.values()) and contents:
        yield
        return
    if not contents:
        # transformers takes seconds to import, and only a plan needs it here
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

        ALL_EXPERTS_FUNCTIONS[REHEARSAL] = _evenly
    try:
        model.set_experts_implementation("eager" if contents else REHEARSAL)
        yield
    finally:
        model.set_experts_implementation(before)
        if not contents:
            del ALL_EXPERTS_FUNCTIONS[REHEARSAL]


def _evenly(self: Any, x_ND: Tensor, experts_NK: Tensor, weights_NK: Tensor) -> Tensor:
    """The operations of an expert layer with fixed shapes: N tokens, K experts for each, as many tokens to every expert."""
    N, K = experts_NK.shape
    first = "gate_up_proj" if self.has_gate else "up_proj"
    parts = []
    for e, part in enumerate(x_ND.repeat_interleave(K, 0).tensor_split(self.num_experts)):
        hidden = _linear(self, first, e, part)
        hidden = _linear(self, "down_proj", e, self._apply_gate(hidden) if self.has_gate else self.act_fn(hidden))
        parts.append(self.post_expert_norm(hidden) if self.has_post_expert_norm else hidden)
    weighted = torch.cat(parts) * weights_NK.reshape(-1, 1)
    return weighted.view(N, K, -1).sum(1).to(x_ND.dtype)


def _linear(self: Any, name: str, expert: int, x: Tensor) -> Tensor:
    weight = getattr(self, name)[expert]
    bias = getattr(self, f"{name}_bias")[expert] if self.has_bias else None
    return torch.nn.functional.linear(x, weight.T if self.is_transposed else weight, bias)
