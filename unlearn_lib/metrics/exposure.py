r"""Exposure (Carlini et al. 2019), approximated by sampling, as in the paper's equation 9.

The exposure of a sample s against reference texts S is $\log |S| - \log \mathrm{rank}(s)$, where the rank is one more than the
number of references whose loss is at or below the sample's own. The paper's formula says $\log_2$ (bits); its printed values
fit the natural logarithm (nats). Both are given, under their names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.data.batches import Example, make_batches
from unlearn_lib.errors import InputError
from unlearn_lib.losses import token_logits, token_nll

BITS_PER_NAT = 1 / math.log(2)


def exposure(losses_n: Tensor, reference_nR: Tensor) -> Tensor:
    """`[n]`: the exposure of every sample in **nats**; multiply by `BITS_PER_NAT` for bits.

    Args:
        losses_n: `[n]`, the samples' losses.
        reference_nR: `[n, R]`, for every sample the losses of R references of its length.
    """
    rank_n = 1 + (reference_nR <= losses_n.unsqueeze(1)).sum(1)
    return math.log(reference_nR.shape[1]) - rank_n.to(torch.float64).log()


@torch.no_grad()
def prefix_losses(model: Any, examples: Sequence[Example], batch_size: int = 32) -> Tensor:
    """`[n, T - 1]`: at column k the mean NLL of each sequence's first k + 2 tokens. Shorter sequences are NaN past their end.

    Scored once, a long text so serves as a reference for every shorter length. Cost: one forward pass.
    """
    longest = max(len(example.input_ids) for example in examples)
    result = torch.full((len(examples), longest - 1), math.nan, dtype=torch.float64)
    start = 0
    for batch in make_batches(examples, batch_size, model.device):
        own = batch["labels"].shape[1]  # rows of the text's own tokens: its first token is never counted
        nll_BS, scored_BS = token_nll(token_logits(model, batch)[:, -own:], batch["labels"])
        count_S = torch.arange(1, nll_BS.shape[1] + 1, dtype=torch.float64)
        mean_BS = nll_BS.double().cpu().cumsum(-1) / count_S
        mean_BS[~scored_BS.cpu()] = math.nan
        result[start : start + len(mean_BS), : mean_BS.shape[1]] = mean_BS
        start += len(mean_BS)
    return result


@dataclass(frozen=True)
class Exposures:
    """`nats_n`: the exposure of every sample; `maximum`: the highest value the number of references allows, log R, in nats."""

    nats_n: Tensor
    maximum: float

    @property
    def bits_n(self) -> Tensor:
        return self.nats_n * BITS_PER_NAT


def exposures(model: Any, samples: Sequence[Example], references: Sequence[Example]) -> Exposures:
    """The exposure of every sample against the prefixes of the references that have its length.

    The end-of-text token, which no prefix has, is left out of a sample's loss.

    Raises:
        InputError: No samples, no references, or a reference shorter than the longest sample.

    Cost: one forward pass over samples and references.
    """
    if not samples or not references:
        raise InputError("exposure needs at least one sample and one reference text")
    length_n = torch.tensor([len(sample.input_ids) - 1 for sample in samples])
    shortest = min(len(reference.input_ids) for reference in references)
    if shortest < int(length_n.max()):
        raise InputError(
            f"the shortest reference text has {shortest} tokens, the longest sample {int(length_n.max())}; use longer references"
        )
    column_n = length_n - 2
    own_n = prefix_losses(model, samples).gather(1, column_n.unsqueeze(1)).squeeze(1)
    longest = int(length_n.max())
    prefixes = [Example(reference.input_ids[:longest], reference.labels[:longest]) for reference in references]
    reference_nR = prefix_losses(model, prefixes)[:, column_n].T
    return Exposures(exposure(own_n, reference_nR), math.log(len(references)))
