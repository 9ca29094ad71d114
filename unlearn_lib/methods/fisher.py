"""What the paper's two Fisher methods share: the block inverse Fisher of D+ at the current parameters."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field

from unlearn_lib.curvature import BlockRecursion, batch_gradient, to_blocks, trainable
from unlearn_lib.data.batches import collate
from unlearn_lib.methods.base import Inputs, Method, Outcome


class FisherMethod(Method):
    """Options of the recursion (equations 7 and 8).

    Options:
        damping: lambda; the recursion starts from I / lambda (paper: 1).
        width: Block width B; blocks are cut from each parameter tensor, the last one padded (paper: 48; the cut is not stated).
        terms: m, the largest number of recursion terms; fewer when D+ has fewer batches (paper: 1024).
        retain_batch_size: Sequences of D+ whose mean gradient is one term (paper: not stated; its run times fit 8).
        forget_batch_size: Sequences in one batch of D-; the default is all of them, one step per call.
    """

    damping: float = Field(1.0, gt=0)
    width: int = Field(48, ge=1)
    terms: int = Field(1024, ge=1)
    retain_batch_size: int = Field(8, ge=1)
    forget_batch_size: int | None = Field(None, ge=1)

    def inverse_fisher(self, model: Any, inputs: Inputs, outcome: Outcome, draw: int) -> BlockRecursion:
        """F_m^{-1} from m batches of D+ in an order drawn from the seed (a new order for every batch of D-)."""
        generator = torch.Generator().manual_seed(inputs.seed * 1_000_003 + draw)
        order = torch.randperm(len(inputs.retain), generator=generator).tolist()
        pieces = [order[i : i + self.retain_batch_size] for i in range(0, len(order), self.retain_batch_size)][: self.terms]
        params = trainable(model)
        blocks = sum(-(-p.numel() // self.width) for p in params.values())
        recursion = BlockRecursion(blocks, self.width, self.damping, len(pieces), next(iter(params.values())))
        for number, piece in enumerate(pieces):
            loss, g = batch_gradient(model, collate([inputs.retain[i] for i in piece], model.device))
            recursion.add(to_blocks(g, self.width))
            outcome.gradient_evaluations += len(piece)
            if inputs.progress is not None:
                inputs.progress(number + 1, len(pieces), loss)
        outcome.details["terms"] = recursion.added
        return recursion
