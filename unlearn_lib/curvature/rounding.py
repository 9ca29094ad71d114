"""Captured factors in bfloat16: half of float32's memory, for an error that a solve's residual shows.

A number is rounded by a relative 2^-8 at most, and by about 2^-9 in the mean; bfloat16 has the range of float32, so that none overflows.
Products of factors are formed in float32, in which a product of two such numbers is exact. What has no factors (the gradients of biases
and norms) and what is looked up stays as it is.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from unlearn_lib.curvature.uses import Lookup, Outer, Use, place_of

FACTORS = ("float32", "bfloat16")


def rounded(uses: Mapping[str, Sequence[Use]]) -> dict[str, list[Use]]:
    """The uses of one batch with rounded factors. A tensor that several of them share is shared again."""
    done: dict[Hashable, Tensor] = {}

    def half(x: Tensor) -> Tensor:
        place = place_of(x)
        if place not in done:
            done[place] = x.to(torch.bfloat16)
        return done[place]

    def of(use: Use) -> Use:
        if isinstance(use, Outer):
            return Outer(half(use.left_BTp), half(use.right_BTq))
        return Lookup(use.ids_BT, half(use.right_BTq), use.rows) if isinstance(use, Lookup) else use

    return {name: [of(use) for use in found] for name, found in uses.items()}


def rounded_bytes(use: Use) -> list[tuple[Tensor, int]]:
    """The tensors of a use, and the bytes that each takes once it is rounded."""
    return [
        (x, 2 * x.numel() if x.is_floating_point() and isinstance(use, (Outer, Lookup)) else x.untyped_storage().nbytes())
        for x in use.tensors
    ]
