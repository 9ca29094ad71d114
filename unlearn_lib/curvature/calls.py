"""One call of a torch function that takes chosen parameters, and what it contributes to their gradients. Part of `capture`.

Shape suffixes: B sequences, T positions, d and e the sides of a product.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp, vmap
from torch.utils._pytree import tree_unflatten

from unlearn_lib.curvature.uses import Direct, Lookup, Outer, Use


@dataclass(frozen=True)
class Call:
    """One call of a torch function: the leaves of its arguments, and which of them are chosen parameters."""

    function: Any
    leaves: list[Any]
    spec: Any
    names: dict[int, str]
    batched: list[bool]

    def uses(self, grad: Tensor, shape: tuple[int, int]) -> list[tuple[str, Use]]:
        """What the call contributes to the gradient of each parameter, from the gradient of its output."""
        args, kwargs = tree_unflatten(self.leaves, self.spec)
        slots = {id(self.leaves[place]): name for place, name in self.names.items()}
        if self.function is torch.nn.functional.embedding:
            return [(name, _lookup(args, kwargs, grad, shape[0])) for name in self.names.values()]
        found = factors(self.function, args, kwargs)
        if found is None:
            return self._generic(grad, shape)
        x, weight, bias = found
        # heads and the like count as more positions
        x_BTd, grad_BTe = (t.reshape(shape[0], -1, t.shape[-1]) for t in (x, grad))
        result: list[tuple[str, Use]] = []
        if id(weight) in slots:
            outer = (x_BTd, grad_BTe) if self.function is torch.addmm else (grad_BTe, x_BTd)
            result.append((slots[id(weight)], Outer(*outer)))
        if id(bias) in slots:
            result.append((slots[id(bias)], Direct(grad_BTe.sum(1).unsqueeze(-1))))
        return result

    def _generic(self, grad: Tensor, shape: tuple[int, int]) -> list[tuple[str, Use]]:
        """The function's gradient in its parameters, sequence by sequence, by a vectorised vjp."""
        places = list(self.names)
        samples = [_split(leaf, shape) for leaf, yes in zip(self.leaves, self.batched, strict=True) if yes]

        def one(grad_: Tensor, *sample: Tensor) -> Any:
            parts = iter(sample)
            leaves = [next(parts) if yes else leaf for leaf, yes in zip(self.leaves, self.batched, strict=True)]

            def function(*weights: Tensor) -> Tensor:
                for place, weight in zip(places, weights, strict=True):
                    leaves[place] = weight
                args, kwargs = tree_unflatten(leaves, self.spec)
                out: Tensor = self.function(*args, **kwargs)
                return out

            return vjp(function, *(self.leaves[place] for place in places))[1](grad_)

        grads = vmap(one)(_split(grad, shape), *samples)
        return [(self.names[place], Direct(rows_of(g))) for place, g in zip(places, grads, strict=True)]


def factors(function: Any, args: Any, kwargs: Mapping[str, Any]) -> list[Any] | None:
    """Input, weight and bias of a product; None for another function."""
    if function is torch.nn.functional.linear:
        return _named(args, kwargs, "input", "weight", "bias")
    if function is torch.addmm and not (kwargs.keys() & {"beta", "alpha"}):
        bias, x, weight = _named(args, kwargs, "input", "mat1", "mat2")
        return [x, weight, bias]
    return None


def _split(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """One slice for each sequence that looks like the whole: `[B, T, ..]` -> `[B, 1, T, ..]`, `[B*T, ..]` -> `[B, T, ..]`."""
    B, T = shape
    if len(x) == B * T and not (x.ndim >= 3 and T == 1):
        return x.reshape(B, T, *x.shape[1:])
    return x.expand(B, *x.shape[1:]).unsqueeze(1)


def lookup_arguments(args: Any, kwargs: Any) -> list[Any]:
    """ids, weight, padding_idx, max_norm, norm_type and scale_grad_by_freq of an embedding."""
    return _named(args, kwargs, "input", "weight", "padding_idx", "max_norm", "norm_type", "scale_grad_by_freq")


def _lookup(args: Any, kwargs: Any, grad: Tensor, B: int) -> Lookup:
    ids, weight, padding, *_ = lookup_arguments(args, kwargs)
    grad_BTe = grad.reshape(B, -1, grad.shape[-1])
    ids_BT = ids.expand(grad.shape[:-1]).reshape(B, -1)
    if padding is not None:  # torch gives this row no gradient
        grad_BTe = grad_BTe * (ids_BT != padding % len(weight)).unsqueeze(-1)
    return Lookup(ids_BT, grad_BTe, len(weight))


def _named(args: Any, kwargs: Mapping[str, Any], *names: str) -> list[Any]:
    return [args[place] if place < len(args) else kwargs.get(name) for place, name in enumerate(names)]


def rows_of(g: Tensor) -> Tensor:
    """`[B, p, q]` from `[B, *shape]`, gradients of one parameter."""
    return g.reshape(len(g), g.shape[1] if g.ndim > 1 else 1, -1)
