"""Work in float32 on models that are stored in a narrower format.

A step of less than half the last digit of a weight (1 in 256 for bfloat16) is lost if the weight itself is stepped, and at usual
learning rates nearly every step is. So what is narrower than float32 is widened, stepped, and rounded to its format once, at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from unlearn_lib.curvature.gradient import trainable
from unlearn_lib.errors import NumericsError
from unlearn_lib.models.forms import given_part

Formats = Mapping[str, torch.dtype]


def formats(model: Any) -> Formats:
    """The number format of every parameter and buffer, by name, and under the name "" the one that most of its numbers have."""
    numbers: Counter[torch.dtype] = Counter()
    for _, tensor in _tensors(model):
        numbers[tensor.dtype] += tensor.numel() * tensor.is_floating_point()
    most = max(numbers, key=lambda dtype: numbers[dtype], default=torch.float32)
    return {name: tensor.dtype for name, tensor in _tensors(model)} | {"": most}


def widen(model: Any) -> None:
    """Turn what is narrower than float32 into float32, in place, if anything that is trained is; exact."""
    if any(_narrow(p) for p in trainable(model).values()):
        for _, tensor in _tensors(model):
            if _narrow(tensor):
                tensor.data = tensor.data.float()


def formats_in(result: Any, given: Formats) -> dict[str, torch.dtype]:
    """The formats that the tensors of a result are to have, by their names there.

    Args:
        result: What a method made of the given model: a model with the same names and perhaps more, or one of a form that holds the
            given model as a part (see `unlearn_lib.models.forms`).
        given: The formats of the given model's tensors, by their names in it, and under the name "" that of whatever is beside them.
    """
    part = given_part(result)
    if not part or given.keys() - {""} <= formats(result).keys():
        return dict(given)
    return {f"{part}.{name}" if name else name: own for name, own in given.items()}


def give_back(model: Any, wanted: Formats) -> None:
    """Turn every parameter and buffer into its own format, in place; what has it already is not touched.

    What has no format of its own, because a method has added it to the model, gets the one under the name "", where there is one.

    Raises:
        NumericsError: A parameter is outside of its format's range.
    """
    lost = []
    for name, tensor in _tensors(model):
        own = wanted.get(name, wanted.get("", tensor.dtype) if tensor.is_floating_point() else tensor.dtype)
        if tensor.dtype != own:
            wide, tensor.data = tensor.data, tensor.data.to(own)
            if not torch.equal(torch.isfinite(tensor), torch.isfinite(wide)):
                lost.append(f"{name} does not fit into {own}")
    if lost:
        raise NumericsError(f"{lost[0]}; load the model in float32, or take smaller steps")


@contextmanager
def master_weights(model: Any) -> Iterator[None]:
    """Inside, the model is widened; on leaving it is rounded to the formats it had.

    Raises:
        NumericsError: As `give_back`.
    """
    own = formats(model)
    widen(model)
    try:
        yield
    finally:
        give_back(model, own)


def _tensors(model: Any) -> list[tuple[str, torch.Tensor]]:
    # the same parameter may have two names: tied weights appear once
    return [*model.named_parameters(), *model.named_buffers()]


def _narrow(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype.itemsize < torch.float32.itemsize
