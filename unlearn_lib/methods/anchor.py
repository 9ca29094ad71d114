r"""The anchor: what the original model predicts on D+, and how far a model has moved away from it.

    KL_R(theta) = mean over texts of D+ of the mean over scored tokens of KL( p_original || p_theta )

Its value and its gradient are zero at the original model, and its Hessian there is the Gauss-Newton matrix of D+.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.curvature.gradient import summed_gradient
from unlearn_lib.curvature.vector import Vector
from unlearn_lib.data.batches import Example
from unlearn_lib.losses import Batch
from unlearn_lib.methods.base import Inputs
from unlearn_lib.methods.original import original_of
from unlearn_lib.methods.replay import replay
from unlearn_lib.metrics.divergence import log_probs, sequence_divergences


class Anchor:
    """The divergence from the original model, on texts of D+ that change from step to step.

    Args:
        model: The original model; a copy of it is kept (`original_of`).
        inputs: D+ and how many texts go through a model at a time.
        written: Once every text of D+ has been used, go on with texts that the original model writes (`replay`); otherwise D+
            is gone through again.
    """

    def __init__(self, model: Any, inputs: Inputs, written: bool) -> None:
        self.original = original_of(model)
        self.inputs, self.written, self.used = inputs, written, 0
        generator = torch.Generator().manual_seed(inputs.seed)
        self.order = [inputs.retain[i] for i in torch.randperm(len(inputs.retain), generator=generator).tolist()]

    def next(self, count: int) -> list[Example]:
        """The next texts: of D+ in an order drawn from the seed, then written ones, or D+ again (none of it twice at a time)."""
        if not self.written:
            count = min(count, len(self.order))
        texts = self.order[self.used : self.used + count]
        missing = count - len(texts)
        if missing and self.written:
            inputs = self.inputs
            seed = inputs.seed * 1_000_003 + self.used
            found, drawn = replay(self.original, self.order, missing, inputs.forget, inputs.batch_size, seed)
            inputs.passes.forward += drawn
            texts += found
        elif missing:
            texts += [self.order[(self.used + len(texts) + i) % len(self.order)] for i in range(missing)]
        self.used += count
        return texts

    def gradient(self, model: Any, texts: Sequence[Example]) -> tuple[float, Vector]:
        """KL_R on these texts and its gradient by the model's trainable parameters.

        Cost: a gradient and a forward pass (of the original model) of each text.

        Raises:
            NumericsError: The divergence or its gradient is not finite.
        """
        self.inputs.passes.forward += len(texts)

        def loss_of(batch: Batch) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                before_BSV = log_probs(self.original, batch)
            loss = sequence_divergences(before_BSV, log_probs(model, batch), batch).sum() / len(texts)
            return loss, loss.detach().double()

        return summed_gradient(
            model, self.inputs.batches(texts, model.device), loss_of, "the divergence from the original model"
        )
