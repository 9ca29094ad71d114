"""The data side of every curvature operator: the model as a function of chosen parameters, and n sequences in batches.

Curvature is measured in evaluation mode, never below float32, with eager attention. Shape suffixes: B sequences, T positions,
S = T - 1 predictions, V vocabulary.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.vector import Vector
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED, Batch, model_inputs, sequence_means, token_nll

PRECISIONS = {None: None, "float32": torch.float32, "float64": torch.float64}


class EmpiricalRisk(Operator):
    """Base of the operators that are sums over sequences.

    Args:
        model: A causal language model; it is not changed, and its training mode is ignored.
        batches: A list of Hugging Face batches (`input_ids`, `attention_mask`, `labels`, all `[B, T]`).
        params: A pattern such as `"*lora*"` or `"model.decoder.layers.3.*"`, or a list of them; default: all that require a gradient.
        precision: `"float32"` or `"float64"`; default: the parameters' own format, but never below float32.

    Raises:
        InputError: No sequences, a sequence without scored tokens, float16 parameters, attention other than eager, a pattern that
            matches nothing. All before any computing.
    """

    def __init__(
        self,
        model: Any,
        batches: Sequence[Batch],
        params: str | Sequence[str] | None = None,
        *,
        precision: str | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise InputError(f"unknown precision {precision!r}; choose float32 or float64")
        _check_attention(model)
        self.model, self.batches = model, list(batches)
        self.sequences = _check_batches(self.batches)
        everything = dict(model.named_parameters())
        chosen = _select(everything, params)
        self._fixed = {name: _wide(p, PRECISIONS[precision]) for name, p in everything.items() if name not in chosen}
        self.params: Vector = {name: _wide(everything[name], PRECISIONS[precision]) for name in chosen}

    def logits(self, batch: Batch) -> Callable[[Vector], Tensor]:
        """The function params -> logits `[B, T, V]` of a batch."""

        def function(params: Vector) -> Tensor:
            training = self.model.training
            self.model.eval()
            try:
                logits_BTV: Tensor = functional_call(self.model, {**self._fixed, **params}, kwargs=model_inputs(batch)).logits
            finally:
                self.model.train(training)
            return logits_BTV

        return function

    def losses(self, batch: Batch) -> Callable[[Vector], Tensor]:
        """The function params -> losses `[B]` of a batch's sequences."""
        logits = self.logits(batch)
        return lambda params: sequence_means(*token_nll(logits(params), batch["labels"]))


def token_weights(batch: Batch, sequences: int) -> Tensor:
    """`[B, S]`: what a token counts in (1/n) sum_i (1/T_i) sum_t; zero where it is not scored."""
    scored_BS = batch["labels"][:, 1:] != IGNORED
    return scored_BS / (scored_BS.sum(1, keepdim=True) * sequences)


def _wide(p: Tensor, precision: torch.dtype | None) -> Tensor:
    return p.detach().to(precision or torch.promote_types(p.dtype, torch.float32))


def _select(everything: dict[str, Any], params: str | Sequence[str] | None) -> list[str]:
    if params is None:
        chosen = [name for name, p in everything.items() if p.requires_grad]
    else:
        patterns = [params] if isinstance(params, str) else list(params)
        chosen = [name for name in everything if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if not chosen:
        raise InputError(f"no parameter matches {params!r}; names look like {', '.join(list(everything)[:3])}")
    half = [name for name in chosen if everything[name].dtype == torch.float16]
    if half:
        raise InputError(
            f"parameter {half[0]} is float16, whose range is too narrow for curvature; load the model in float32 or bfloat16"
        )
    return chosen


def _check_attention(model: Any) -> None:
    attention = getattr(model.config, "_attn_implementation", "eager")
    if attention != "eager":
        raise InputError(
            f"curvature needs attn_implementation='eager', this model has {attention!r}; load it with load_model, or with that argument"
        )


def _check_batches(batches: Sequence[Batch]) -> int:
    sequences = 0
    for number, batch in enumerate(batches):
        scored_B = (batch["labels"][:, 1:] != IGNORED).sum(1)
        if (scored_B == 0).any():
            row = int((scored_B == 0).nonzero()[0])
            raise InputError(f"sequence {row} of batch {number} has no scored token (all labels are -100); remove it")
        sequences += len(scored_B)
    if not sequences:
        raise InputError("there are no sequences; curvature needs at least one batch")
    return sequences
