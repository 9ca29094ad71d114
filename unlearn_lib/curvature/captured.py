"""What is captured of one parameter in every batch, and sums over its uses.

Shape suffixes: c sequences of all batches, p x q a parameter.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from unlearn_lib.curvature.uses import Direct, Outer, Use

Captured = list[list[Use]]  # the uses of one parameter in every batch


def look(batches: Captured) -> tuple[int, bool, bool]:
    """The tokens of a parameter's factors, whether one is a product, and whether a gradient has no factors."""
    uses = [use for uses in batches for use in uses]
    tokens = sum(use.right_BTq.shape[0] * use.right_BTq.shape[1] for use in uses if not isinstance(use, Direct))
    return tokens, any(isinstance(use, Outer) for use in uses), any(isinstance(use, Direct) for use in uses)


def project(batches: Captured, v_pq: Tensor) -> Tensor:
    """`[c]`: <g_i, v>."""
    found = [torch.stack([use.project(v_pq) for use in uses]).sum(0) for uses in batches]
    return torch.cat(found) if found else v_pq.new_zeros(0)


def adjoint(batches: Captured, c_c: Tensor, param: Tensor) -> Tensor:
    """sum_i c_i g_i, in the parameter's shape."""
    sizes = [len(uses[0].tensors[0]) for uses in batches]
    if not batches:
        return torch.zeros_like(param)
    parts = (use.adjoint(c_B) for uses, c_B in zip(batches, c_c.split(sizes), strict=True) for use in uses)
    return reduce(torch.add, parts).view_as(param)  # one after the other, so that few are in memory
