"""The data side of every curvature operator: the model as a function of chosen parameters, and n sequences in batches.

Curvature is measured in evaluation mode, never below float32, with eager attention. Shape suffixes: B sequences, T positions,
S = T - 1 predictions, V vocabulary.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call, jvp, vjp
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.precision import KeepFloat64
from unlearn_lib.curvature.vector import Vector, total
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED, Batch, model_inputs, sequence_means, token_nll

if TYPE_CHECKING:
    from unlearn_lib.curvature.plan import Plan

PRECISIONS = {None: None, "float32": torch.float32, "float64": torch.float64}


class EmpiricalRisk(Operator):
    """Base of the operators that are sums over sequences.

    Args:
        model: A causal language model; it is not changed, and its training mode is ignored. An operator belongs to the parameters
            as they are: make a new one after a step.
        batches: A list of Hugging Face batches (`input_ids`, `attention_mask`, `labels`, all `[B, T]`).
        params: A pattern such as `"*lora*"` or `"model.decoder.layers.3.*"`, or a list of them; default: all that require a
            gradient.
        precision: `"float32"` or `"float64"`; default: the parameters' own format, but never below float32.

    Raises:
        InputError: No sequences, a sequence without scored tokens, float16 parameters, attention other than eager, a pattern
            that matches nothing, a parameter that the model does not use. All before any derivative is taken.
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
        self.fixed = {name: _wide(p, PRECISIONS[precision]) for name, p in everything.items() if name not in chosen}
        self.params: Vector = {name: _wide(everything[name], PRECISIONS[precision]) for name in chosen}
        self._check_used()

    def logits(self, batch: Batch) -> Callable[[Vector], Tensor]:
        """The function params -> logits `[B, T, V]` of a batch."""

        def function(params: Vector) -> Tensor:
            training = self.model.training
            self.model.eval()
            try:
                with KeepFloat64() if self.dtype == torch.float64 else nullcontext():
                    logits_BTV: Tensor = functional_call(
                        self.model, {**self.fixed, **params}, kwargs=model_inputs(batch)
                    ).logits
            finally:
                self.model.train(training)
            return logits_BTV

        return function

    def losses(self, batch: Batch) -> Callable[[Vector], Tensor]:
        """The function params -> losses `[B]` of a batch's sequences."""
        logits = self.logits(batch)
        return lambda params: sequence_means(*token_nll(logits(params), batch["labels"]))

    @torch.no_grad()
    def project(self, v: Vector) -> Tensor:
        """`[n]`: G v, the directional derivatives g_i^T v of every sequence's loss, by forward-mode differentiation. Costs 1 gradient."""
        return torch.cat([jvp(self.losses(batch), (self.params,), (v,))[1] for batch in self.batches])

    @torch.no_grad()
    def adjoint(self, c_n: Tensor) -> Vector:
        """G^T c, the combination sum_i c_i g_i, by one backward pass of a weighted loss. Costs 1 gradient."""
        pieces = c_n.split([len(batch["labels"]) for batch in self.batches])
        return total(self._adjoint(batch, c_B) for batch, c_B in zip(self.batches, pieces, strict=True))

    def _adjoint(self, batch: Batch, c_B: Tensor) -> Vector:
        value_B, pullback, *_ = vjp(self.losses(batch), self.params)
        combination: Vector = pullback(c_B.to(value_B))[0]
        return combination

    def plan(self, solver: str | None = None, **options: Any) -> Plan:
        """The peak memory and gradient evaluations that `solve` with this solver and these options will need, without running it.

        Raises:
            InputError: A solver that has no plan (dense, kfac).
        """
        from unlearn_lib.curvature.plan import plan  # plans build on risks

        return plan(self, solver or self.default_solver, options)

    def _check_used(self) -> None:
        seen = _Seen(self.params)
        with torch.no_grad():
            for batch in (self._short(1), *self.batches):  # a token shows nearly always all; experts may need more
                with seen:
                    self.logits(batch)(self.params)
                if not seen.missing:
                    return
        raise InputError(
            f"parameter {next(iter(seen.missing.values()))} ({len(seen.missing)} in all) has no gradient: the loss does not depend on it; "
            "leave it out with params="
        )

    def _short(self, T: int) -> Batch:
        ids = torch.zeros(1, T, dtype=torch.long, device=self.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    @property
    def gradient_flops(self) -> int:
        """FLOPs of one gradient (forward and backward) over all sequences."""
        return self._gradient_flops

    @cached_property
    def _gradient_flops(self) -> int:
        # three times the forward pass's, which is a T + b T^2 for a sequence of length T
        flops = []
        for T in (1, 2):
            with torch.no_grad(), Meter() as meter:
                self.logits(self._short(T))(self.params)
            flops.append(meter.flops)
        b = flops[1] / 2 - flops[0]
        a = flops[0] - b
        shapes = [batch["input_ids"].shape for batch in self.batches]
        total_flops: float = 3 * sum(B * (a * T + b * T * T) for B, T in shapes)
        return round(total_flops)


def token_weights(batch: Batch, sequences: int) -> Tensor:
    """`[B, S]`, float64: what a token counts in (1/n) sum_i (1/T_i) sum_t; zero where it is not scored."""
    scored_BS = batch["labels"][:, 1:] != IGNORED
    return scored_BS.double() / (scored_BS.sum(1, keepdim=True) * sequences)


class _Seen(TorchFunctionMode):
    """Crosses off the parameters that torch functions take."""

    def __init__(self, params: Vector) -> None:
        super().__init__()
        self.missing = {id(p): name for name, p in params.items()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):  # and not a shape or a dtype that was asked for
            for leaf in tree_leaves((args, kwargs)):
                self.missing.pop(id(leaf), None)
        return out


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
