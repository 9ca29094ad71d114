r"""Derivatives of a function of the parameters along a vector: in forward mode, or by two reverse passes where that is missing.

Forward mode (`jvp`) keeps no graph and costs a third of a gradient or two. Some operations have no forward derivative: those of
torch that lack one (the backward of SiLU), and every `autograd.Function` of an older style (BLOOM's GELU, RecurrentGemma's
square root, peft's Hadamard products). Then J^T w is differentiated in w, in which it is linear: its derivative along v is
(d/dw) <J^T w, v> = J v, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, Protocol, Self, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import embedding
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from unlearn_lib.curvature.vector import Vector

T = TypeVar("T")
DOUBLE_BACKWARD = "double backward"


class _HasMode(Protocol):
    mode: str


def forward_or_reverse(operator: _HasMode, forward: Callable[[], T], reverse: Callable[[], T]) -> T:
    """`forward()`; or `reverse()`, from the first time on that an operation has no forward derivative. `operator.mode` says which.

    Both are exact, so a failure that has another cause is either raised by `reverse` again or has done no harm.
    """
    if operator.mode != DOUBLE_BACKWARD:
        try:
            return forward()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # NotImplementedError is one; functorch's refusal of an autograd.Function is a plain one
            operator.mode = DOUBLE_BACKWARD
    return reverse()


def jvp(function: Callable[[Vector], Any], params: Vector, v: Vector) -> Any:
    """The derivative of a function along v, in forward mode."""
    return torch.func.jvp(function, (params,), (v,))[1]


def vjp(function: Callable[[Vector], Tensor], params: Vector) -> tuple[Tensor, Callable[[Tensor], Vector]]:
    """The value of a function, and the map from c to J^T c, which can be called once. Costs a forward pass, and then a backward pass."""
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    with torch.enable_grad():
        value = function(leaves)

    def pullback(c: Tensor) -> Vector:
        grads = torch.autograd.grad(value, list(leaves.values()), c, materialize_grads=True)
        return dict(zip(leaves, grads, strict=True))

    return value.detach(), pullback


class JacobianGraph:
    """The graphs of a function's value and of J^T w, through which J v and J^T c are one backward pass each. Costs 1 gradient."""

    def __init__(self, function: Callable[[Vector], Tensor], params: Vector) -> None:
        self._leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
        with torch.enable_grad():
            self.value = function(self._leaves)
            self._w = torch.zeros_like(self.value, requires_grad=True)
            self._pulled = self._pull(self._w, create_graph=True)

    def push(self, v: Vector) -> Tensor:
        """J v. Costs 2/3 gradient."""
        pairs = [(g, v[name]) for name, g in zip(self._leaves, self._pulled, strict=True) if g.requires_grad]
        outputs, directions = zip(*pairs, strict=True)
        return torch.autograd.grad(outputs, [self._w], directions, retain_graph=True)[0]

    def pull(self, c: Tensor) -> Vector:
        """J^T c. Costs 2/3 gradient."""
        return dict(zip(self._leaves, self._pull(c, retain_graph=True), strict=True))

    def _pull(self, c: Tensor, **options: Any) -> Sequence[Tensor]:
        return torch.autograd.grad(self.value, list(self._leaves.values()), c, materialize_grads=True, **options)


class SameConstants(TorchFunctionMode):
    """Inside, forward mode takes for constant what reverse mode does, which torch by itself does not.

    That is what a model computes under a `no_grad` of its own (the first cycles of HRM), and the row of an embedding that its
    `padding_idx` names (RoCBert's pinyin, or an end-of-text token inside a text). Whoever has no gradients on around this has
    none inside.
    """

    def __init__(self) -> None:
        super().__init__()
        self.constant = False

    def __enter__(self) -> Self:
        # a model's no_grad leaves by restoring what it found, which must differ from what it set
        self.outside = torch.is_grad_enabled()
        torch._C._set_grad_enabled(True)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
        torch._C._set_grad_enabled(self.outside)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch._C._set_grad_enabled:
            self.constant = not args[0]
            return func(*args)
        with nullcontext() if self.outside or not torch.is_grad_enabled() else torch.no_grad():
            out = func(*args, **kwargs)
            if func is embedding and torch._C._are_functorch_transforms_active():
                out = _without_padding(out, *args, **kwargs)
        return tree_map(_constant, out) if self.constant else out


def _without_padding(out: Tensor, input: Tensor, weight: Tensor, padding_idx: int | None = None, *_: Any, **__: Any) -> Tensor:
    if padding_idx is None:
        return out
    return torch.where((input == padding_idx % len(weight)).unsqueeze(-1), out.detach(), out)


def _constant(x: Any) -> Any:
    return x.detach() if isinstance(x, Tensor) and x.is_floating_point() else x
