"""One forward and one backward pass that leave, for every chosen parameter, its uses: every sequence's gradient in factored form.

No module is wrapped and no architecture is known by name. While the model runs, every torch function that takes a chosen
parameter is noted with its input; one backward pass to the outputs of these functions (never to the parameters) then gives
the other factor:

    linear, addmm (Conv1D)    input and output gradient, an outer product
    embedding                 ids and output gradient
    elementwise, norms        the function's own gradient in the parameter, one sequence at a time

Outputs flattened to `[B*T, d]` (OPT's MLP) are seen as `[B, T, d]`, outputs shared by all sequences (`[1, T, d]` positions)
are expanded first. A parameter used in any other way (a weight that is transformed before it meets the text, experts that
sort tokens) is followed by reverse-mode differentiation of every sequence's loss instead: slower, equally right.

Slice i of an output's gradient belongs to sequence i only where no function on the way to the losses moves slices about. That
is shown function by function (`rows`), at no cost. Where a function without a rule is met, a second backward pass decides: the
losses weighted by different numbers c must give slice i just c_i times its gradient. What fails that is followed by reverse mode.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten
from torch.utils.weak import WeakTensorKeyDictionary

from unlearn_lib.curvature.calls import Call, factors, lookup_arguments, rows_of
from unlearn_lib.curvature.rows import aligned, keeps_apart, works_in_place
from unlearn_lib.curvature.uses import Direct, Outer, Use, as_matrix
from unlearn_lib.curvature.vector import Vector, numbers
from unlearn_lib.errors import InputError

# Where slices lie in order, two backward passes differ by rounding; a slice of another sequence makes a difference as large
# as the gradient. A thousand units of rounding are between the two.
ROUNDING = 1000
# A tensor that needs a gradient is not made from watched outputs; holds one slice or more of every sequence, in order; is made
# from watched outputs by a function without a rule; or comes out of work that torch functions do not show.
PLAIN, ROWS, MIXED, HIDDEN = "plain", "rows", "mixed", "hidden"


def capture(
    losses: Callable[[Vector], Tensor],
    params: Vector,
    fixed: Mapping[str, Tensor],
    shape: tuple[int, int],
    followed: frozenset[str] = frozenset(),
    concealed: frozenset[str] = frozenset(),
    *,
    alike: bool = False,
) -> tuple[Tensor, dict[str, list[Use]]]:
    """The losses of a batch and the uses of every parameter.

    Args:
        losses: Function params -> `[B]`; sequence i's loss depends on sequence i only.
        params: The chosen parameters.
        fixed: The model's other parameters; they meet the text but are not followed.
        shape: `(B, T)`.
        followed: Parameters known not to keep sequences apart.
        concealed: Parameters known to enter an `autograd.Function`, whose derivative torch functions do not show.
        alike: Make one pass forwards and two backwards whatever the batch is, as processes have to that gather the layers of a divided
            model together. The second decides for every function whether it keeps sequences apart, with a rule or not.

    Returns:
        `(losses_B, uses)`; a parameter that is never used has a use without positions, whose gradient is zero.

    Cost: 2/3 gradient (forward, and backward without weight gradients), and the memory of a gradient, plus what is kept: input
    and output gradient of every product. Where a function of the model has no rule in `rows` it takes one backward pass more, 1/3
    gradient; parameters that are followed take B backward passes, in all up to a gradient, and the memory of their B gradients.

    Raises:
        InputError: With `alike`, a parameter that would have to be followed.
    """
    watch = _Watch(params, fixed, shape, followed, alike)
    with torch.enable_grad():
        leaves = {name: params[name].detach().requires_grad_() for name in concealed}
        with watch:
            losses_B = losses({**params, **leaves})
        if alike and (watch.concealed or watch.stand_ins):
            raise _not_alike({*watch.concealed, *watch.stand_ins})
        if watch.concealed:
            return capture(losses, params, fixed, shape, followed, concealed | watch.concealed)
        watch.stand_ins.update(leaves)
        if watch.stand_ins and losses_B.requires_grad:
            for name, g in _by_sequence(losses_B, watch.stand_ins, keep=bool(watch.calls)).items():
                watch.uses[name].append(Direct(rows_of(g)))
        if watch.calls and losses_B.requires_grad:
            certain = not alike and watch.is_certain(losses_B)
            watch.receive(losses_B, keep=not certain)
            mixed = frozenset() if certain else watch.mixed(losses_B)
            if mixed and alike:
                raise _not_alike(mixed)
            if mixed:
                return capture(losses, params, fixed, shape, followed | mixed, concealed)
    for name, found in watch.uses.items():
        if not found:
            found.append(_no_use(params[name], shape[0]))
    return losses_B.detach(), watch.uses


class _Watch(TorchFunctionMode):
    """Follows every call that takes a chosen parameter: makes its output differentiable and waits for the gradient."""

    def __init__(
        self, params: Vector, fixed: Mapping[str, Tensor], shape: tuple[int, int], followed: frozenset[str], alike: bool
    ) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in params.items()}
        self.weights = self.names.keys() | {id(p) for p in fixed.values()}
        self.params, self.shape, self.followed, self.alike = params, shape, followed, alike
        self.uses: dict[str, list[Use]] = {name: [] for name in params}
        self.stand_ins: dict[str, Tensor] = {}
        self.calls: list[Call] = []
        # zeros added to outputs: a backward pass to them goes through every output
        self.anchors: list[Tensor] = []
        self.state = WeakTensorKeyDictionary()  # what is known about each tensor that needs a gradient
        self.concealed: set[str] = set()
        self.enabled = True  # whether the model itself leaves gradients on
        self.unruled = False  # whether rows have met a function without a rule
        self.phase = "wait"
        self.gradients: dict[int, Tensor] = {}  # the gradients of the calls' outputs
        self.errors: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves, spec = tree_flatten((args, kwargs))
        names = {place: self.names[id(leaf)] for place, leaf in enumerate(leaves) if id(leaf) in self.names}
        if func is torch._C._set_grad_enabled:
            self.enabled = args[0]
        if names and torch.is_grad_enabled():
            return self._with_parameters(func, leaves, spec, names)
        out = func(*args, **kwargs)
        # inside a no_grad of its own the model takes no gradient; torch alone turns gradients off in the forward of a Function
        if self.enabled and not torch.is_grad_enabled() and any(_is_real_or_complex(t) for t in _results(func, args, out)):
            self.concealed.update(names.values())
        self._follow(func, args, kwargs, leaves, out)
        return out

    def _with_parameters(self, func: Any, leaves: list[Any], spec: Any, names: dict[int, str]) -> Any:
        args, kwargs = tree_unflatten(leaves, spec)
        if not works_in_place(func) and not self.followed.intersection(names.values()):
            out = func(*args, **kwargs)
            floating = [t for t in _results(func, args, out) if t.is_floating_point()]
            if not floating or any(out is leaf for leaf in leaves):  # a shape; or the parameter itself, in the format it has
                return out
            if out is floating[0] and self._keeps_sequences_apart(func, args, kwargs, leaves, names, out):
                batched = [self._is_input(leaf) and _is_batched(leaf, out) for leaf in leaves]
                return self._watched(Call(func, _detached(leaves, names), spec, names, batched), leaves, out)
        given = {name: self.stand_ins.get(name, self.params[name].detach().requires_grad_()) for name in names.values()}
        leaves = [given[names[place]] if place in names else leaf for place, leaf in enumerate(leaves)]
        args, kwargs = tree_unflatten(leaves, spec)
        out = func(*args, **kwargs)
        if any(t.requires_grad for t in _results(func, args, out)):  # not zeros_like and the like
            self.stand_ins.update(given)
        self._follow(func, args, kwargs, leaves, out)
        return out

    def _watched(self, call: Call, leaves: list[Any], out: Tensor) -> Tensor:
        B, number = self.shape[0], len(self.calls)
        if len(out) == 1 != B:
            out = out.expand(B, *out.shape[1:])
        if not any(self._state(leaf) in (ROWS, MIXED) for leaf in leaves):
            self.anchors.append(out.new_zeros(()).requires_grad_())
            out = out + self.anchors[-1]
        elif out._is_view():  # (linear's is, of a matrix.) The hook of a view is lost where the model goes on in place
            out = torch.ops.aten._unsafe_view(out, out.shape)
        out.register_hook(lambda grad: self._receive(number, grad))
        self.calls.append(call)
        if self.alike:  # a divided layer is gathered by a hook on what leaves it, which has to come before the one above
            out = torch.ops.aten._unsafe_view(out, out.shape)
        self.state[out] = ROWS
        return out

    def _is_input(self, leaf: Any) -> bool:
        return isinstance(leaf, Tensor) and id(leaf) not in self.weights

    def _state(self, leaf: Any) -> str:
        if not isinstance(leaf, Tensor) or not leaf.requires_grad:
            return PLAIN
        state: str = self.state.get(leaf, PLAIN if leaf.is_leaf else HIDDEN)
        return state

    def _follow(self, func: Any, args: Any, kwargs: Any, leaves: list[Any], out: Any) -> None:
        """Note what has come out of a function: rows still, or slices that may have been moved about."""
        results = [t for t in _results(func, args, out) if t.requires_grad]
        if not results:
            return
        inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
        states = {self._state(leaf) for leaf in inputs if leaf in self.state or not any(leaf is t for t in results)}
        if states <= {PLAIN}:
            state = PLAIN
        elif states <= {PLAIN, ROWS}:
            rows = [leaf for leaf in inputs if self._state(leaf) == ROWS]
            state = ROWS if keeps_apart(func, args, kwargs, results, rows, self.shape[0]) else MIXED
        else:
            state = MIXED if states <= {PLAIN, ROWS, MIXED} else HIDDEN
        self.unruled |= state in (MIXED, HIDDEN)
        for result in results:
            self.state[result] = state

    def is_certain(self, losses_B: Tensor) -> bool:
        """Whether every function between the watched outputs and the losses is known to keep sequences apart."""
        if self.shape[0] == 1:
            return True
        return not self.unruled and self._state(losses_B) == ROWS and losses_B.shape == self.shape[:1]

    def receive(self, losses_B: Tensor, *, keep: bool) -> None:
        """One backward pass that notes the uses of all calls; `keep` the graph, and the gradients to compare with."""
        self._backward(losses_B, torch.ones_like(losses_B), "keep" if keep else "note")

    def mixed(self, losses_B: Tensor) -> frozenset[str]:
        """The parameters of the calls whose slices do not belong to the sequences in order, by a backward pass with weights."""
        # irregular, so that no mean over other sequences can be taken for the right one
        self.c_B = 1 + torch.arange(1, len(losses_B) + 1, dtype=torch.float64).mul(2**0.5).frac().to(losses_B)
        self._backward(losses_B, self.c_B, "weigh")
        if isinstance(losses_B, FakeTensor):  # a plan's rehearsal has no contents to decide by
            return frozenset()
        tolerance = ROUNDING * torch.finfo(losses_B.dtype).eps
        # what is not finite is mixed
        wrong = [n for n, error in zip(self.errors, numbers(self.errors.values()), strict=True) if not error <= tolerance]
        return frozenset(name for number in wrong for name in self.calls[number].names.values())

    def _backward(self, losses_B: Tensor, weights_B: Tensor, phase: str) -> None:
        self.phase = phase
        torch.autograd.grad(losses_B, self.anchors, weights_B, retain_graph=phase == "keep", allow_unused=True)
        self.phase = "wait"

    def _receive(self, number: int, grad: Tensor) -> None:
        if self.phase in ("keep", "note"):
            for name, use in self.calls[number].uses(grad, self.shape):
                self.uses[name].append(use)
            if self.phase == "keep":
                self.gradients[number] = grad
        elif self.phase == "weigh":
            expected = self.gradients.pop(number).reshape(len(self.c_B), -1) * self.c_B.to(grad)[:, None]
            difference = grad.reshape(expected.shape) - expected
            error = difference.norm() / expected.norm().clamp_min(torch.finfo(grad.dtype).tiny)
            self.errors[number] = error.double()

    def _keeps_sequences_apart(
        self, func: Any, args: Any, kwargs: Any, leaves: list[Any], names: dict[int, str], out: Tensor
    ) -> bool:
        """Whether the call works on each sequence by itself, with the same parameter for all, in a way that `Call` knows."""
        B, T = self.shape
        together = out.ndim >= 2 and len(out) == B * T
        apart = out.ndim >= 3 and len(out) in (1, B) and out.shape[1] == T
        if not (together or apart):
            return False
        own = {id(leaves[place]) for place in names}
        if func is torch.nn.functional.embedding:
            ids, weight, _, max_norm, _, by_frequency = lookup_arguments(args, kwargs)
            return own == {id(weight)} and len(ids) in (1, len(out)) and max_norm is None and not by_frequency
        inputs = [leaf for leaf in leaves if self._is_input(leaf) and _is_batched(leaf, out)]
        found = factors(func, args, kwargs)
        if found is not None:
            x, weight, bias = found
            return own <= {id(weight), id(bias)} and x.ndim >= 2 and any(x is leaf for leaf in inputs)
        inputs = [leaf for leaf in inputs if len(leaf) == len(out)]
        if any(aligned(leaves[place], out) and len(out) > 1 for place in names):
            return B == 1  # a slice of the parameter for each slice of the output
        return bool(inputs) and keeps_apart(func, args, kwargs, [out], inputs, len(out))


def _not_alike(names: Collection[str]) -> InputError:
    return InputError(
        f"the model uses parameter {min(names)} in a way that takes passes of its own for every text, which processes that share the "
        "weights cannot make; leave out --shard-weights, or take a first-order method"
    )


def _detached(leaves: list[Any], names: Mapping[int, str]) -> list[Any]:
    return [leaf.detach() if isinstance(leaf, Tensor) and place not in names else leaf for place, leaf in enumerate(leaves)]


def _results(function: Any, args: Any, out: Any) -> list[Tensor]:
    """The tensors that a function has made or changed."""
    if isinstance(out, Tensor):
        return [out]
    if out is None and works_in_place(function):  # x[..] = y
        return [args[0]]
    return [] if not isinstance(out, (tuple, list)) else [t for t in tree_leaves(out) if isinstance(t, Tensor)]


def _is_real_or_complex(t: Tensor) -> bool:
    return t.is_floating_point() or t.is_complex()


def _is_batched(leaf: Tensor, out: Tensor) -> bool:
    """Whether an argument holds one slice for each of the output's, or one for all."""
    return leaf.ndim == out.ndim and len(leaf) in (len(out), 1)


def _no_use(p: Tensor, B: int) -> Outer:
    rows, columns = as_matrix(p).shape
    return Outer(p.new_zeros(B, 0, rows), p.new_zeros(B, 0, columns))


def _by_sequence(losses_B: Tensor, stand_ins: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """`[B, *shape]` for every stand-in: one backward pass for each sequence, which any function that has a derivative takes part in."""
    found = {name: p.new_empty(len(losses_B), *p.shape) for name, p in stand_ins.items()}
    tensors, last = list(stand_ins.values()), len(losses_B) - 1
    for i, loss in enumerate(losses_B.unbind()):
        grads = torch.autograd.grad(loss, tensors, retain_graph=keep or i < last, materialize_grads=True)
        for g_B, g in zip(found.values(), grads, strict=True):
            g_B[i] = g
    return found
