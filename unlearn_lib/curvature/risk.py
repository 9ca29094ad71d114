"""The data side of every curvature operator: the model as a function of chosen parameters, and n sequences in batches.

Curvature is measured in evaluation mode, never below float32, with eager attention. Shape suffixes: B sequences, T positions,
S = T - 1 predictions, V vocabulary.
"""

from __future__ import annotations

import fnmatch
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from unlearn_lib.curvature.derivatives import JacobianGraph, SameConstants, forward_or_reverse, jvp, vjp
from unlearn_lib.curvature.experts import eager_experts
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.precision import in_full
from unlearn_lib.curvature.rows import works_in_place
from unlearn_lib.curvature.vector import Vector, total, zeros
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED, Batch, sequence_means, targets, token_logits, token_nll
from unlearn_lib.ranks import ranks
from unlearn_lib.shards import divided, seen

BY_TASK = ("POLY", "MULTITASK_PROMPT_TUNING")
PRECISIONS = {None: None, "float32": torch.float32, "float64": torch.float64}


class EmpiricalRisk(Operator):
    """Base of the operators that are sums over sequences.

    Inside `unlearn_lib.ranks.data_parallel` every process takes its share of the sequences; whatever the operator gives is of all of
    them, and the same in every process.

    Args:
        model: A causal language model; it is not changed, and the training mode of its modules is ignored and kept. An operator
            belongs to the parameters as they are: make a new one after a step.
        batches: A list of Hugging Face batches (`input_ids`, `attention_mask`, `labels`, all `[B, T]`).
        params: A pattern such as `"*lora*"` or `"model.decoder.layers.3.*"`, or a list of them; default: all that require a
            gradient.
        precision: `"float32"` or `"float64"`; default: the parameters' own format, but never below float32.

    Raises:
        InputError: No sequences, a sequence without scored tokens, float16 parameters, attention other than eager, a pattern
            that matches nothing, a model whose parameters are all frozen, a parameter that the model does not use,
            an adapter that needs more than texts, `torch.inference_mode`. All before any derivative is taken.
    """

    mode = "forward"
    divides = False
    """Whether the operator can be made of a model whose weights are divided among processes."""

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
        _check_mode(model)
        check_adapter(model)
        _check_attention(model)
        self.model, self.batches = model, list(batches)
        self.sequences = _check_batches(self.batches)
        self.ranks = ranks()
        self.share = self.ranks.share(self.batches)
        everything = dict(model.named_parameters())
        chosen = _select(everything, params)
        self.fixed = {name: _wide(p, PRECISIONS[precision]) for name, p in everything.items() if name not in chosen}
        self.params: Vector = {name: _wide(everything[name], PRECISIONS[precision]) for name in chosen}
        # what the model's functions take: these parameters, or, where they are divided, what they become in a pass
        self.seen: Vector = {name: p for name, p in self._seen().items() if name in chosen}
        self._check_used()

    def _seen(self) -> Vector:
        if not divided(self.model):
            return self.params
        if not self.divides:
            raise InputError(
                f"a {type(self).__name__} cannot be made of a model whose weights are divided among processes, only KFAC can; leave out "
                "--shard-weights, or take solver='kfac'"
            )
        return seen(self.model)

    def logits(self, batch: Batch) -> Callable[[Vector], Tensor]:
        """The function params -> logits `[B, T, V]` of a batch, as `token_logits` gives them.

        Raises:
            InputError: Inside `torch.inference_mode`, where nothing can be differentiated.
        """
        _check_mode(self.model)

        def function(params: Vector) -> Tensor:
            has_contents = not any(isinstance(p, FakeTensor) for p in self.params.values())
            with (
                evaluating(self.model),
                in_full(self.params.values()),
                eager_experts(self.model, contents=has_contents),
                SameConstants(),
            ):
                return token_logits(self.model, batch, None if divided(self.model) else {**self.fixed, **params})

        return function

    def losses(self, batch: Batch) -> Callable[[Vector], Tensor]:
        """The function params -> losses `[B]` of a batch's sequences."""
        logits = self.logits(batch)
        return lambda params: sequence_means(*token_nll(logits(params), batch["labels"]))

    @torch.no_grad()
    def project(self, v: Vector) -> Tensor:
        """`[n]`: G v, the directional derivatives g_i^T v of every sequence's loss, by forward-mode differentiation. Costs 1 gradient."""
        found = [self._project(self.losses(batch), v) for batch in self.share.batches]
        return self.ranks.gather(torch.cat(found or [v[next(iter(v))].new_zeros(0)]), self.share)

    def _project(self, losses: Callable[[Vector], Tensor], v: Vector) -> Tensor:
        product: Tensor = forward_or_reverse(
            self, lambda: jvp(losses, self.params, v), lambda: JacobianGraph(losses, self.params).push(v)
        )
        return product

    @torch.no_grad()
    def adjoint(self, c_n: Tensor) -> Vector:
        """G^T c, the combination sum_i c_i g_i, by one backward pass of a weighted loss. Costs 1 gradient."""
        pieces = c_n[self.share.own].split([len(batch["labels"]) for batch in self.share.batches])
        return self.added(self._adjoint(batch, c_B) for batch, c_B in zip(self.share.batches, pieces, strict=True))

    def added(self, parts: Iterable[Vector]) -> Vector:
        """The sum of this process's parts, one for each of its batches, and of those of all others. The parts are used up."""
        return self.ranks.add(total(parts) or zeros(self.params))

    def _adjoint(self, batch: Batch, c_B: Tensor) -> Vector:
        value_B, pullback = vjp(self.losses(batch), self.params)
        return pullback(c_B.to(value_B))

    def _check_used(self) -> None:
        used = _Seen(self.seen)
        with torch.no_grad():
            for batch in (self._short(1), *self.batches):  # a token shows nearly always all; experts may need more
                with used:
                    self.logits(batch)(self.params)
                if used.sparse:
                    raise InputError(
                        "the model makes sparse matrices as it runs (adapters of kinds FROD and SHIRA do), which torch differentiates "
                        "neither forwards nor twice; merge the adapter into its base, or use one of another kind"
                    )
                if not used.missing:
                    return
        raise InputError(
            f"parameter {next(iter(used.missing.values()))} ({len(used.missing)} in all) has no gradient: the loss does not depend on it; "
            "leave it out with params="
        )

    def _short(self, T: int) -> Batch:
        ids = torch.zeros(1, T, dtype=torch.long, device=self.device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    @property
    def gradient_flops(self) -> int:
        """FLOPs of the gradients (forward and backward) of all sequences, each taken once."""
        return self._gradient_flops

    def texts_worth(self, flops: float) -> float:
        return flops / self.gradient_flops * self.sequences

    @cached_property
    def _gradient_flops(self) -> int:
        # three times the forward pass's, which is a T + b T^2 for a sequence of length T; with c for virtual tokens before it
        flops = []
        for T in (1, 2, 3):
            with torch.no_grad(), Meter() as meter:
                self.logits(self._short(T))(self.params)
            flops.append(meter.flops)
        b = (flops[2] - 2 * flops[1] + flops[0]) / 2
        a = flops[1] - flops[0] - 3 * b
        c = flops[0] - a - b
        shapes = [batch["input_ids"].shape for batch in self.batches]
        total_flops: float = 3 * sum(B * (a * T + b * T * T + c) for B, T in shapes)
        return round(total_flops)


def token_weights(logits_BTV: Tensor, batch: Batch, sequences: int) -> Tensor:
    """`[B, S]`, float64: what a prediction counts in (1/n) sum_i (1/T_i) sum_t; zero where it is not scored."""
    scored_BS = targets(logits_BTV, batch["labels"]) != IGNORED
    return scored_BS.double() / (scored_BS.sum(1, keepdim=True) * sequences)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Every module in evaluation mode inside; each has its own mode back after."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


class _Seen(TorchFunctionMode):
    """Crosses off the parameters that torch functions take; notes whether a sparse tensor is made."""

    def __init__(self, params: Vector) -> None:
        super().__init__()
        self.missing = {id(p): name for name, p in params.items()}
        self.sparse = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [leaf for leaf in (out, *tree_leaves(out)) if isinstance(leaf, Tensor)]
        self.sparse |= any(tensor.layout != torch.strided for tensor in made)
        if made or works_in_place(func):  # and not a shape or a dtype that was asked for
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
    if not chosen and params is None:
        raise InputError(
            "all parameters of the model are frozen (requires_grad is False), so there is nothing to differentiate; unfreeze some with "
            "requires_grad_(True), load an adapter with is_trainable=True, or name the parameters with params="
        )
    if not chosen:
        raise InputError(f"no parameter matches {params!r}; names look like {', '.join(list(everything)[:3])}")
    half = [name for name in chosen if everything[name].dtype == torch.float16]
    if half:
        raise InputError(
            f"parameter {half[0]} is float16, whose range is too narrow for curvature; load the model in float32 or bfloat16"
        )
    return chosen


def _check_mode(model: Any) -> None:
    if torch.is_inference_mode_enabled():
        raise InputError("curvature needs derivatives, which torch.inference_mode() forbids; call it outside of that block")
    made = next((name for name, p in model.named_parameters() if p.is_inference()), None)
    if made is not None:
        raise InputError(
            f"parameter {made} was made inside torch.inference_mode(), so nothing can be differentiated in it; load the model outside "
            "of that block"
        )


def check_adapter(model: Any) -> None:
    """Refuse the peft adapters that take more than texts, or that mix the texts of a batch.

    Raises:
        InputError: The model has one.
    """
    for config in getattr(model, "peft_config", {}).values():
        if config.peft_type.value == "LILY":
            raise InputError(
                "an adapter of kind LILY weighs its experts by a mean over all tokens of a batch, padding included, so that a text's "
                "loss depends on the texts beside it, and no text has a gradient of its own; use an adapter of another kind"
            )
        if config.peft_type.value in BY_TASK:
            raise InputError(
                f"an adapter of kind {config.peft_type.value} takes the number of a task beside every text (task_ids), which texts alone "
                "do not give; merge it into its base, or use an adapter of another kind"
            )


def _check_attention(model: Any) -> None:
    attention = getattr(model.config, "_attn_implementation", "eager")
    if attention != "eager":
        raise InputError(
            f"curvature needs attn_implementation='eager', this model has {attention!r}; load it with load_model, or with that argument"
        )


def _check_batches(batches: Sequence[Batch]) -> int:
    sizes = [len(batch["labels"]) for batch in batches]
    if not sum(sizes):
        raise InputError("there are no sequences; curvature needs at least one batch")
    scored_n = torch.cat([(batch["labels"][:, 1:] != IGNORED).sum(1) for batch in batches]).tolist()
    if 0 in scored_n:
        place, ends = scored_n.index(0), list(accumulate(sizes))
        number = bisect_right(ends, place)
        row = place - (ends[number] - sizes[number])
        raise InputError(f"sequence {row} of batch {number} has no scored token (all labels are -100); remove it")
    return len(scored_n)
