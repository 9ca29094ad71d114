"""Gradients as vectors: dicts of tensors by parameter name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.curvature.precision import in_full
from unlearn_lib.curvature.vector import Vector, all_finite, axpy, numbers, scale, zeros
from unlearn_lib.errors import NumericsError
from unlearn_lib.losses import Batch, sequence_losses, without_autocast
from unlearn_lib.ranks import alone, ranks
from unlearn_lib.shards import divided


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
    if divided(model):
        return mean_gradient(model, [batch])
    loss, found = _gradient(model, batch)
    return _finite(loss.item(), ranks().add(found))


def _gradient(model: Any, batch: Batch) -> tuple[Tensor, Vector]:
    params = trainable(model)
    with in_full(params.values()):
        loss = sequence_losses(model, batch).mean()
    return loss.detach().double(), differentiated(loss, params)


def _finite(loss: float, gradient: Vector) -> tuple[float, Vector]:
    if not (math.isfinite(loss) and all_finite(gradient.values())):
        raise NumericsError(
            f"the loss ({loss}) or its gradient is not finite; the model has diverged (take a smaller step) or its number format "
            "is too narrow (load it with dtype='float32')"
        )
    return loss, gradient


def differentiated(loss: Tensor, params: Vector) -> Vector:
    """The gradient of a loss by parameters; of divided ones, that of the sum of all processes' losses."""
    if not divided(params):
        grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(params, grads, strict=True))
    before, found = [p.grad for p in params.values()], Vector()
    for p in params.values():
        p.grad = None
    loss.backward()  # `torch.autograd.grad` would not go back to parts of parameters
    for (name, p), kept in zip(params.items(), before, strict=True):
        found[name], p.grad = torch.zeros_like(p) if p.grad is None else p.grad, kept
    return found


@without_autocast()
def summed_gradient(
    model: Any, batches: Sequence[Batch], loss_of: Callable[[Batch], tuple[Tensor, Tensor]], what: str
) -> tuple[float, Vector]:
    """The sum over batches of any loss, and its gradient by the trainable parameters. Cost: one gradient.

    Args:
        model: Whose parameters they are.
        batches: The batches. Of several processes each takes its share of their texts.
        loss_of: Of a batch, the loss to differentiate, a sum over its texts, and a number that is added up beside it, `[]` in float64.
        what: The loss's name, for the message.

    Returns:
        `(sum of the numbers, gradient of the sum of the losses)`.

    Raises:
        NumericsError: A loss, a number or a gradient is not finite.
    """
    params, together = trainable(model), ranks()
    sums, found = list[Tensor](), Vector()
    with alone():
        share = together.share(batches)
        for place, batch in enumerate([*share.batches, *share.idle]):
            counts = place < len(share.batches)
            with in_full(params.values()):
                loss, number = loss_of(batch)
            sums += [number.detach(), loss.detach().double()] if counts else []
            for name, grad in differentiated(loss if counts else 0 * loss, params).items():
                found[name] = found[name].add_(grad) if name in found else grad
    found, own = found or zeros(params), numbers(sums)
    found = found if divided(params) else together.add(found)
    total, lost = (together.add_number(sum(part), next(iter(params.values())).device) for part in (own[::2], own[1::2]))
    if not (math.isfinite(total) and math.isfinite(lost) and all_finite(found.values())):
        raise NumericsError(f"{what} or its gradient is not finite: the model has diverged")
    return total, found


@without_autocast()
def mean_gradient(model: Any, batches: Sequence[Batch]) -> tuple[float, Vector]:
    r"""The mean loss over the sequences of all batches, and its gradient: `batch_gradient` in pieces. Cost: one gradient.

    Raises:
        NumericsError: The loss or the gradient is not finite.
    """
    if divided(model):  # a pass adds up over the processes, so that it has to know its weight before
        n = sum(len(batch["labels"]) for batch in batches)

        def share_of(batch: Batch) -> tuple[Tensor, Tensor]:
            loss = sequence_losses(model, batch).sum() / n
            return loss, loss.detach().double()

        return summed_gradient(model, batches, share_of, "the loss")
    if len(batches) == 1:
        return batch_gradient(model, batches[0])
    together = ranks()
    share = together.share(batches)
    losses, parts = list[Tensor](), list[Vector]()
    with alone():
        for batch in share.batches:
            weight = len(batch["labels"]) / share.texts
            value, g = _gradient(model, batch)
            losses.append(weight * value)
            parts = [axpy(weight, g, parts[0])] if parts else [scale(weight, g)]
    params = trainable(model)
    found = together.add(parts[0] if parts else zeros(params))
    return _finite(together.add_number(sum(numbers(losses)), next(iter(params.values())).device), found)
