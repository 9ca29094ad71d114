"""One forward and one backward pass that leave, for every chosen parameter, its uses: every sequence's gradient in factored form.

No module is wrapped and no architecture is known by name. While the model runs, every torch function that takes a chosen
parameter is noted with its input; one backward pass to the outputs of these functions (never to the parameters) then gives
the other factor:

    linear, addmm (Conv1D)    input and output gradient, an outer product
    embedding                 ids and output gradient
    anything else             the function's own gradient in the parameter, one sequence at a time (norms, scales)

Outputs flattened to `[B*T, d]` (OPT's MLP) are seen as `[B, T, d]`, outputs shared by all sequences (`[1, T, d]` positions)
are expanded first. A parameter used in a way that does not keep sequences apart (a weight that is transformed before it meets
the text) is followed by reverse-mode differentiation of every sequence's loss instead: slower, equally right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp, vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from unlearn_lib.curvature.uses import Direct, Lookup, Outer, Use
from unlearn_lib.curvature.vector import Vector


def capture(
    losses: Callable[[Vector], Tensor], params: Vector, fixed: Mapping[str, Tensor], shape: tuple[int, int]
) -> tuple[Tensor, dict[str, list[Use]]]:
    """The losses of a batch and the uses of every parameter.

    Args:
        losses: Function params -> `[B]`; sequence i's loss depends on sequence i only.
        params: The chosen parameters.
        fixed: The model's other parameters; they meet the text but are not followed.
        shape: `(B, T)`.

    Returns:
        `(losses_B, uses)`; a parameter that is never used has an empty list.

    Cost: 2/3 gradient (forward, and backward without weight gradients), and the memory of a gradient, plus what is kept: input
    and output gradient of every product.
    """
    watch = _Watch(params, fixed, shape)
    with torch.enable_grad():
        with watch:
            losses_B = losses(params)
        if watch.stand_ins:
            grads = _by_sequence(losses_B, list(watch.stand_ins.values()))
            for name, g in zip(watch.stand_ins, grads, strict=True):
                watch.uses[name].append(Direct(_rows_of(g)))
        if watch.roots:
            watch.receiving = True
            torch.autograd.grad(losses_B.sum(), watch.roots, allow_unused=True)
            # their hooks refer to the watch: a cycle that would keep everything until the next garbage collection
            watch.roots.clear()
    return losses_B.detach(), watch.uses


@dataclass(frozen=True)
class _Call:
    """One call of a torch function: the leaves of its arguments, and which of them are chosen parameters."""

    function: Any
    leaves: list[Any]
    spec: Any
    names: dict[int, str]

    def uses(self, grad: Tensor, shape: tuple[int, int]) -> list[tuple[str, Use]]:
        """What the call contributes to the gradient of each parameter, from the gradient of its output."""
        args, kwargs = tree_unflatten(self.leaves, self.spec)
        slots = {id(self.leaves[place]): name for place, name in self.names.items()}
        if self.function is torch.nn.functional.embedding:
            return [(name, _lookup(args, kwargs, grad, shape[0])) for name in self.names.values()]
        if self.function is torch.nn.functional.linear:
            x, weight, bias = _named(args, kwargs, "input", "weight", "bias")
        elif self.function is torch.addmm and not (kwargs.keys() & {"beta", "alpha"}):
            bias, x, weight = _named(args, kwargs, "input", "mat1", "mat2")
        else:
            return self._generic(grad, shape)
        # heads and the like count as more positions
        x_BTd, grad_BTe = (t.reshape(shape[0], -1, t.shape[-1]) for t in (x, grad))
        result: list[tuple[str, Use]] = []
        if id(weight) in slots:
            factors = (x_BTd, grad_BTe) if self.function is torch.addmm else (grad_BTe, x_BTd)
            result.append((slots[id(weight)], Outer(*factors)))
        if id(bias) in slots:
            result.append((slots[id(bias)], Direct(grad_BTe.sum(1).unsqueeze(-1))))
        return result

    def _generic(self, grad: Tensor, shape: tuple[int, int]) -> list[tuple[str, Use]]:
        """The function's gradient in its parameters, sequence by sequence, by a vectorised vjp."""
        places = list(self.names)
        batched = [place not in self.names and _is_batched(leaf, grad) for place, leaf in enumerate(self.leaves)]
        samples = [_split(leaf, shape) for leaf, yes in zip(self.leaves, batched, strict=True) if yes]

        def one(grad_: Tensor, *sample: Tensor) -> Any:
            parts = iter(sample)
            leaves = [next(parts) if yes else leaf for leaf, yes in zip(self.leaves, batched, strict=True)]

            def function(*weights: Tensor) -> Tensor:
                for place, weight in zip(places, weights, strict=True):
                    leaves[place] = weight
                args, kwargs = tree_unflatten(leaves, self.spec)
                out: Tensor = self.function(*args, **kwargs)
                return out

            return vjp(function, *(self.leaves[place] for place in places))[1](grad_)

        grads = vmap(one)(_split(grad, shape), *samples)
        return [(self.names[place], Direct(_rows_of(g))) for place, g in zip(places, grads, strict=True)]


class _Watch(TorchFunctionMode):
    """Follows every call that takes a chosen parameter: makes its output differentiable and waits for the gradient."""

    def __init__(self, params: Vector, fixed: Mapping[str, Tensor], shape: tuple[int, int]) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in params.items()}
        self.weights = self.names.keys() | {id(p) for p in fixed.values()}
        self.params, self.shape = params, shape
        self.uses: dict[str, list[Use]] = {name: [] for name in params}
        self.roots: list[Tensor] = []
        self.stand_ins: dict[str, Tensor] = {}
        self.receiving = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        leaves, spec = tree_flatten((args, kwargs))
        names = {place: self.names[id(leaf)] for place, leaf in enumerate(leaves) if id(leaf) in self.names}
        if not names or not isinstance(out, Tensor) or not out.is_floating_point():
            return out
        inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor) and id(leaf) not in self.weights]
        if not self._keeps_sequences_apart(out, inputs):
            for place, name in names.items():
                leaves[place] = self.stand_ins.setdefault(name, self.params[name].detach().requires_grad_())
            args, kwargs = tree_unflatten(leaves, spec)
            return func(*args, **kwargs)
        if len(out) == 1 != self.shape[0]:
            out = out.expand(self.shape[0], *out.shape[1:])
        if not out.requires_grad:
            self.roots.append(out.requires_grad_())
        kept = [leaf.detach() if isinstance(leaf, Tensor) and place not in names else leaf for place, leaf in enumerate(leaves)]
        call = _Call(func, kept, spec, names)
        out.register_hook(lambda grad: self._receive(call, grad))
        return out

    def _receive(self, call: _Call, grad: Tensor) -> None:
        if self.receiving:
            for name, use in call.uses(grad, self.shape):
                self.uses[name].append(use)

    def _keeps_sequences_apart(self, out: Tensor, inputs: list[Tensor]) -> bool:
        B, T = self.shape
        together = out.ndim >= 2 and len(out) == B * T
        apart = out.ndim >= 3 and len(out) in (1, B) and out.shape[1] == T
        return (together or apart) and any(_is_batched(leaf, out) for leaf in inputs)


def _is_batched(leaf: Any, out: Tensor) -> bool:
    """Whether an argument holds one slice for each sequence (or one for all), as the output does; ids have a dimension less."""
    if not isinstance(leaf, Tensor) or not leaf.ndim:
        return False
    ndim = out.ndim if leaf.is_floating_point() else out.ndim - 1
    return leaf.ndim == ndim and len(leaf) in (len(out), 1)


def _split(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """One slice for each sequence that looks like the whole: `[B, T, ..]` -> `[B, 1, T, ..]`, `[B*T, ..]` -> `[B, T, ..]`."""
    B, T = shape
    if len(x) == B * T and not (x.ndim >= 3 and T == 1):
        return x.reshape(B, T, *x.shape[1:])
    return x.expand(B, *x.shape[1:]).unsqueeze(1)


def _lookup(args: Any, kwargs: Any, grad: Tensor, B: int) -> Lookup:
    ids, weight, padding = _named(args, kwargs, "input", "weight", "padding_idx")
    grad_BTe = grad.reshape(B, -1, grad.shape[-1])
    ids_BT = ids.expand(grad.shape[:-1]).reshape(B, -1)
    if padding is not None:  # torch gives this row no gradient
        grad_BTe = grad_BTe * (ids_BT != padding % len(weight)).unsqueeze(-1)
    return Lookup(ids_BT, grad_BTe, len(weight))


def _named(args: Any, kwargs: Mapping[str, Any], *names: str) -> list[Any]:
    return [args[place] if place < len(args) else kwargs.get(name) for place, name in enumerate(names)]


def _rows_of(g: Tensor) -> Tensor:
    """`[B, p, q]` from `[B, *shape]`, gradients of one parameter."""
    return g.reshape(len(g), g.shape[1] if g.ndim > 1 else 1, -1)


def _by_sequence(losses_B: Tensor, stand_ins: list[Tensor]) -> tuple[Tensor, ...]:
    eye = torch.eye(len(losses_B), dtype=losses_B.dtype, device=losses_B.device)
    return torch.autograd.grad(losses_B, stand_ins, eye, is_grads_batched=True, retain_graph=True, materialize_grads=True)
