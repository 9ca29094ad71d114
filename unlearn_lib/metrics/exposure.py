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
from unlearn_lib.losses import IGNORED, token_logits, token_nll

BITS_PER_NAT = 1 / math.log(2)


def exposure(losses_n: Tensor, reference_nR: Tensor) -> Tensor:
    """`[n]`: the exposure of every sample in **nats**; multiply by `BITS_PER_NAT` for bits.

    Args:
        losses_n: `[n]`, the samples' losses.
        reference_nR: `[n, R]`, for every sample the losses of R references of its length. Losses are mean NLLs, the logarithms of
            perplexities, so the ranks are those of the perplexities.
    """
    rank_n = 1 + (reference_nR <= losses_n.unsqueeze(1)).sum(1)
    return math.log(reference_nR.shape[1]) - rank_n.to(torch.float64).log()


@torch.no_grad()
def prefix_losses(model: Any, examples: Sequence[Example], batch_size: int = 32) -> Tensor:
    """`[n, T - 1]`: at column k the mean NLL of the scored tokens among each sequence's first k + 2 tokens. NaN where none of them
    is scored, and past a sequence's end.

    Scored once, a long text so serves as a reference for every shorter length. Cost: one forward pass.
    """
    longest = max(len(example.input_ids) for example in examples)
    result = torch.full((len(examples), longest - 1), math.nan, dtype=torch.float64)
    start = 0
    for batch in make_batches(examples, batch_size, model.device):
        own = batch["labels"].shape[1]  # rows of the text's own tokens: its first token is never counted
        nll_BS, scored_BS = token_nll(token_logits(model, batch)[:, -own:], batch["labels"])
        mean_BS = nll_BS.double().cpu().cumsum(-1) / scored_BS.double().cpu().cumsum(-1)
        mean_BS[batch["attention_mask"][:, 1:].cpu() == 0] = math.nan
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
    """The exposure of every sample against the beginnings of the references that have as many scored tokens.

    The end-of-text token, which no beginning has, is left out of a sample's loss. Prompts are given and not scored, of samples
    and references alike. A sample that has nothing else to score (one token) ties with every reference: log R - log (R + 1).
    What lies beyond log R, `unlearn_lib.metrics.extrapolation` estimates.

    Raises:
        InputError: No samples, no references, or a reference that scores fewer tokens than a sample.

    Cost: one forward pass over samples and references.
    """
    return Exposures(exposure(*matched_losses(model, samples, references)), math.log(len(references)))


def matched_losses(model: Any, samples: Sequence[Example], references: Sequence[Example]) -> tuple[Tensor, Tensor]:
    """`[n]` and `[n, R]`: the samples' losses, and for every sample those of the references' beginnings of its length, in nats.

    Which tokens count, errors and cost: as of `exposures`.
    """
    if not samples or not references:
        raise InputError("exposure needs at least one sample and one reference text")
    own, others = [_scored(sample) for sample in samples], [_scored(reference) for reference in references]
    last = [len(sample.input_ids) - 1 for sample in samples]
    own = [positions[:-1] if positions[-1:] == [end] else positions for positions, end in zip(own, last, strict=True)]
    length_n = torch.tensor([len(positions) for positions in own])
    longest, shortest = int(length_n.max()), min(map(len, others))
    if shortest < longest:
        raise InputError(
            f"the shortest reference text has {shortest} tokens to score, the longest sample {longest}; use longer references"
        )
    others = [positions[:longest] for positions in others]
    ends = [positions[-1] + 1 if positions else 1 for positions in others]
    cut = [Example(text.input_ids[:end], text.labels[:end]) for text, end in zip(references, ends, strict=True)]
    own_n = _first_losses(model, samples, own).gather(1, length_n.unsqueeze(1)).squeeze(1)
    return own_n, _first_losses(model, cut, others)[:, length_n].T


def _scored(example: Example) -> list[int]:
    """The positions of the tokens that are scored; the first of a text never is."""
    return [i for i, label in enumerate(example.labels) if i and label != IGNORED]


def _first_losses(model: Any, examples: Sequence[Example], scored: Sequence[Sequence[int]]) -> Tensor:
    """`[n, most + 1]`: at column m the mean NLL of the first m of the scored positions; 0 for none, NaN where there are fewer."""
    losses = prefix_losses(model, examples)
    found = torch.full((len(examples), 1 + max(map(len, scored))), math.nan, dtype=torch.float64)
    found[:, 0] = 0.0
    for row, positions in enumerate(scored):
        found[row, 1 : len(positions) + 1] = losses[row, torch.tensor(positions, dtype=torch.long) - 1]
    return found
