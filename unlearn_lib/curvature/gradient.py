"""Gradients as vectors: dicts of tensors by parameter name."""

from __future__ import annotations

from typing import Any

import torch

from unlearn_lib.curvature.vector import Vector
from unlearn_lib.errors import NumericsError
from unlearn_lib.losses import Batch, sequence_losses


def trainable(model: Any) -> Vector:
    """The parameters that require a gradient, by name; tied weights appear once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def batch_gradient(model: Any, batch: Batch) -> tuple[float, Vector]:
    r"""The loss of a batch, $\frac1B\sum_i \ell_i$, and its gradient.

    A parameter the loss does not depend on gets a zero gradient. Cost: one gradient over the batch.

    Raises:
        NumericsError: The loss or the gradient is not finite.
    """
    params = trainable(model)
    loss = sequence_losses(model, batch).mean()
    grads = torch.autograd.grad(loss, list(params.values()), allow_unused=True, materialize_grads=True)
    if not (torch.isfinite(loss) and all(torch.isfinite(g).all() for g in grads)):
        raise NumericsError(
            f"the loss ({loss.item()}) or its gradient is not finite; the model has diverged (take a smaller step) or its number format "
            "is too narrow (load it with dtype='float32')"
        )
    return loss.item(), dict(zip(params, grads, strict=True))
