"""Curvature of a language model's loss. Vectors are dicts of tensors by parameter name."""

from unlearn_lib.curvature.blocks import from_blocks, to_blocks
from unlearn_lib.curvature.gradient import batch_gradient, trainable
from unlearn_lib.curvature.recursion import BlockRecursion

__all__ = ["BlockRecursion", "batch_gradient", "from_blocks", "to_blocks", "trainable"]
