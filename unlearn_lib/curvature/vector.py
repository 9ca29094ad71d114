"""Vectors: dicts of tensors by parameter name, and the little algebra that solvers need.

Inner products are accumulated tensor by tensor in float64: one long float32 reduction loses digits (1 % at 1e8 entries). Of tensors
that are divided among processes each adds up its own rows, and all have the sum.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from unlearn_lib.errors import InputError
from unlearn_lib.shards import divided, over_parts, own

Vector = dict[str, Tensor]


def dot(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """The inner product."""
    return over_parts(sum(numbers((own(a[name]).double() * own(b[name]).double()).sum() for name in a)), a)


def zeros(like: Mapping[str, Tensor]) -> Vector:
    """The zero vector with these names and shapes."""
    return {name: torch.zeros_like(tensor) for name, tensor in like.items()}


def add(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Vector:
    """a + b."""
    return {name: tensor + b[name] for name, tensor in a.items()}


def scale(factor: float, a: Mapping[str, Tensor]) -> Vector:
    """factor a."""
    return {name: factor * tensor for name, tensor in a.items()}


def axpy(factor: float, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Vector:
    """factor a + b, without a temporary."""
    return {name: torch.add(b[name], tensor, alpha=factor) for name, tensor in a.items()}


def norm(a: Mapping[str, Tensor]) -> float:
    """The Euclidean length."""
    found = math.hypot(*numbers(torch.linalg.vector_norm(own(tensor), dtype=torch.float64) for tensor in a.values()))
    return math.sqrt(over_parts(found**2, a)) if divided(a) else found


def numbers(scalars: Iterable[Tensor]) -> list[float]:
    """Tensors of one number each as numbers, in one copy: on a GPU every copy waits for all work before it."""
    found = list(scalars)
    return torch.stack(found).tolist() if found else []


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every entry is finite, in one copy."""
    every = list(tensors)
    found = all(numbers(torch.isfinite(extremes(own(tensor))).all() for tensor in every))
    return over_parts(0.0 if found else 1.0, every[0]) == 0 if every and divided(every[0]) else found


def extremes(tensor: Tensor) -> Tensor:
    """`[2]`: the smallest and the largest entry, which are finite where all are. One of them is NaN where an entry is.

    To look at every entry by `isfinite` takes about twenty times as long on a CPU.
    """
    return torch.stack(tensor.detach().aminmax()) if tensor.numel() else tensor.new_zeros(2)


def total(parts: Iterable[Vector]) -> Vector:
    """The sum of at least one vector. The parts are used up: two of them are in memory at a time, and one tensor of the next sum."""
    result: Vector = {}
    for part in parts:
        result = {name: result.pop(name) + part.pop(name) for name in list(part)} if result else part
        del part
    return result


def flatten(a: Mapping[str, Tensor]) -> Tensor:
    """`[P]`: all tensors one after the other."""
    return torch.cat([tensor.reshape(-1) for tensor in a.values()])


def unflatten(flat: Tensor, like: Mapping[str, Tensor]) -> Vector:
    """The inverse of `flatten`, for the names and shapes of `like`.

    Raises:
        InputError: `flat` is not one-dimensional, or has another number of entries.
    """
    size = sum(tensor.numel() for tensor in like.values())
    if flat.ndim != 1 or flat.numel() != size:
        raise InputError(f"a flat vector for these parameters has shape ({size},), got {tuple(flat.shape)}")
    pieces = flat.split([tensor.numel() for tensor in like.values()])
    return {name: piece.view(tensor.shape) for (name, tensor), piece in zip(like.items(), pieces, strict=True)}


def in_groups(sizes: Mapping[str, int], passes: int) -> list[list[str]]:
    """The names in at most `passes` groups, in order, of about equal size."""
    limit, filled = sum(sizes.values()) / passes, 0.0
    result: list[list[str]] = [[]]
    for name, size in sizes.items():
        if filled + size / 2 > limit * len(result) and len(result) < passes and result[-1]:
            result.append([])
        result[-1].append(name)
        filled += size
    return result
