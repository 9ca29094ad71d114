"""Gradients as vectors: dicts of tensors by parameter name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.curvature.precision import in_full
from unlearn_lib.curvature.vector import Vector, all_finite, axpy, scale
from unlearn_lib.errors import NumericsError
from unlearn_lib.losses import Batch, sequence_losses, without_autocast


def trainable(model: Any) -> Vector:
    """The parameters that require a gradient, by name; tied weights appear once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


@without_autocast()
def batch_gradient(model: Any, batch: Batch) -> tuple[float, Vector]:
    r"""The loss of a batch, $\frac1B\sum_i \ell_i$, and its gradient.

    A parameter the loss does not depend on gets a zero gradient. Cost: one gradient over the batch.

    Raises:
        NumericsError: The loss or the gradient is not finite.
    """
    params = trainable(model)
    with in_full(params.values()):
        loss = sequence_losses(model, batch).mean()
    grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True, materialize_grads=True)
    if not all_finite((loss, *grads)):
        raise NumericsError(
            f"the loss ({loss.item()}) or its gradient is not finite; the model has diverged (take a smaller step) or its number format "
            "is too narrow (load it with dtype='float32')"
        )
    return loss.item(), dict(zip(params, grads, strict=True))


@without_autocast()
def summed_gradient(
    model: Any, batches: Iterable[Batch], loss_of: Callable[[Batch], tuple[Tensor, float]], what: str
) -> tuple[float, Vector]:
    """The sum over batches of any loss, and its gradient by the trainable parameters. Cost: one gradient.

    Args:
        model: Whose parameters they are.
        batches: The batches.
        loss_of: Of a batch, the loss to differentiate, and a number that is added up beside it.
        what: The loss's name, for the message.

    Returns:
        `(sum of the numbers, gradient of the sum of the losses)`.

    Raises:
        NumericsError: A loss, a number or a gradient is not finite.
    """
    params = trainable(model)
    total, found = 0.0, Vector()
    for batch in batches:
        with in_full(params.values()):
            loss, number = loss_of(batch)
        grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True, materialize_grads=True)
        total += number
        if not all_finite((loss, *grads)) or not math.isfinite(total):
            raise NumericsError(f"{what} or its gradient is not finite: the model has diverged")
        for name, grad in zip(params, grads, strict=True):
            found[name] = found[name].add_(grad) if name in found else grad
    return total, found


def mean_gradient(model: Any, batches: Sequence[Batch]) -> tuple[float, Vector]:
    r"""The mean loss over the sequences of all batches, and its gradient: `batch_gradient` in pieces. Cost: one gradient.

    Raises:
        NumericsError: The loss or the gradient is not finite.
    """
    if len(batches) == 1:
        return batch_gradient(model, batches[0])
    n = sum(len(batch["labels"]) for batch in batches)
    loss = 0.0
    parts: list[Vector] = []
    for batch in batches:
        share = len(batch["labels"]) / n
        value, g = batch_gradient(model, batch)
        loss += share * value
        parts = [axpy(share, g, parts[0])] if parts else [scale(share, g)]
    return loss, parts[0]
