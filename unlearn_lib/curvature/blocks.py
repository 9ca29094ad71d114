"""Block partition: every parameter tensor is flattened and cut into blocks of width B; its last block is padded with zeros.

Blocks never cross from one tensor to the next. Shape suffixes: K blocks, B block width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlearn_lib.curvature.vector import Vector


def to_blocks(vector: Vector, width: int) -> Tensor:
    """`[K, B]`: the blocks of all tensors, one tensor after the other."""
    return torch.cat([_pad(tensor.reshape(-1), width) for tensor in vector.values()])


def from_blocks(blocks_KB: Tensor, like: Vector) -> Vector:
    """The inverse of `to_blocks`, for the names and shapes of `like`; the padding is dropped."""
    width, start, result = blocks_KB.shape[1], 0, {}
    for name, tensor in like.items():
        count = -(-tensor.numel() // width)
        result[name] = blocks_KB[start : start + count].reshape(-1)[: tensor.numel()].view_as(tensor)
        start += count
    return result


def _pad(flat: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(flat, (0, -flat.numel() % width)).view(-1, width)
