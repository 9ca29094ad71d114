r"""Whether captured factors are the gradient: those of one text are compared with plain reverse-mode differentiation of it alone.

A residual cannot tell, since it is made of the same factors. The gradients themselves are compared, parameter by parameter:
for a matrix g_pq the row u^T g with random signs u_p, which differs wherever g does and needs no g to be formed. Plain
differentiation gives it as the gradient in w at w = 0 of the model with x W^T + (x w) u^T for x W^T; a parameter's uses in
anything but a product are differentiated as they are. A text costs 2/3 of its gradient that way, and one is taken for each class
of model and its shapes. Shape suffixes: B sequences, T positions, p x q a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from unlearn_lib.curvature.calls import factors
from unlearn_lib.curvature.precision import exact_products
from unlearn_lib.curvature.risk import EmpiricalRisk
from unlearn_lib.curvature.uses import Direct, Lookup, Use, as_matrix
from unlearn_lib.curvature.vector import Vector, numbers
from unlearn_lib.errors import NumericsError
from unlearn_lib.losses import Batch

# What counts as the length of a gradient that is zero but for rounding (the bias of keys), as a share of all parameters'.
FLOOR = 0.01
_confirmed: set[Hashable] = set()  # what was found right, for as long as the program runs

Losses = Callable[[Vector], Tensor]


def tolerance(dtype: torch.dtype) -> float:
    """The largest difference that is rounding, relative to a parameter's gradient: eps^(1/3), .005 in float32, 6e-6 in float64.

    Padding and the order of sums change a gradient by 10 to 1,000 eps; a use that is left out, or a token that is counted for
    another sequence, by a share of the gradient itself. The cube root is far from both.
    """
    cube_root: float = torch.finfo(dtype).eps ** (1 / 3)
    return cube_root


class Witness:
    """One text of a batch, and what its gradient is.

    Args:
        risk: The operator whose parameters are captured.
        number: Which of this process's batches of the risk it is.
        alone: The losses of a batch of one, made from the batch's row i.
        together: The losses of the batch.
    """

    def __init__(self, risk: EmpiricalRisk, number: int, alone: Callable[[int], Losses], together: Losses) -> None:
        self.risk, self.number, self.together = risk, number, together
        self.row = longest(risk.share.batches[number])
        self.signs = _signs(risk.params)
        self.rows = self._rows_of(alone(self.row), 0)
        self.open = set(risk.params)  # not compared yet

    def differences(self, uses: Mapping[str, Sequence[Use]]) -> dict[str, float]:
        """How far the factors of every captured parameter are from its gradient, relative to the gradient's length."""
        with torch.no_grad(), exact_products():
            found = {
                name: reduce(torch.add, (_row(use, self.row, self.signs[name]) for use in of)) for name, of in uses.items()
            }
        return _relative(found, self.rows)

    def confirm(self, uses: Mapping[str, Sequence[Use]]) -> None:
        """Compare, and remember what was right.

        Raises:
            NumericsError: The factors are not the gradient.
        """
        worst, error = _worst(self.differences(uses))
        if not error <= tolerance(self.risk.dtype):
            # a text whose gradient depends on what it is padded with, or batched with, is measured where it stands
            self.rows = self._rows_of(self.together, self.row)
            worst, error = _worst(self.differences(uses))
        if not error <= tolerance(self.risk.dtype):
            raise NumericsError(
                f"the gradient of parameter {worst}, taken by watching the model run, differs from plain differentiation by a relative "
                f"{error:.1e}: the model uses it in a way that cannot be watched. Leave it out with params=, or use what does not watch: "
                "a solve with ConjugateGradients (solver='cg') without linearize, or the method 'newton'"
            )
        self.open -= uses.keys()
        if not self.open:
            _confirmed.add(_key(self.risk, self.risk.share.batches[self.number]))

    def _rows_of(self, losses: Losses, i: int) -> Vector:
        return gradient_rows(losses, self.risk.params, self.signs, i)


class _Rows(TorchFunctionMode):
    """Adds (x w) u^T to every product x W^T, or (x u) w^T to x W, in which W is one of the parameters, and keeps W out of it."""

    def __init__(self, params: Vector, signs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.names = {id(p): name for name, p in params.items() if as_matrix(p).shape[1] > 1}
        self.signs = signs
        self.w = {name: p.new_zeros(as_matrix(p).shape[1]).requires_grad_() for name, p in params.items()}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = factors(func, args, kwargs)
        name = None if found is None else self.names.get(id(found[1]))
        if found is None or name is None:
            return func(*args, **kwargs)
        x, weight, bias = found
        if func is torch.addmm:
            return func(bias, x, weight.detach()) + (x @ self.signs[name]).unsqueeze(-1) * self.w[name]
        return func(x, weight.detach(), bias) + (x @ self.w[name]).unsqueeze(-1) * self.signs[name]


def gradient_rows(losses: Losses, params: Vector, signs: Mapping[str, Tensor], i: int) -> Vector:
    """For every parameter `[q]`: u^T g, with g the gradient of loss i. For a bias or another single column it is g itself, `[p]`."""
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    with torch.enable_grad(), exact_products():
        with _Rows(leaves, signs) as rows:
            loss = losses(leaves)[i]
        sources = [*leaves.values(), *rows.w.values()]
        found = torch.autograd.grad(loss, sources, allow_unused=True)
    result: Vector = {}
    for name, direct, probed in zip(leaves, found, found[len(leaves) :], strict=False):
        parts = [part for part in (None if direct is None else _row_of(direct, signs[name]), probed) if part is not None]
        result[name] = reduce(torch.add, parts) if parts else _row_of(torch.zeros_like(leaves[name]), signs[name])
    return result


def due(risk: EmpiricalRisk) -> int | None:
    """The number of the batch that a witness should come from; None where all is confirmed, or parameters have no contents, or
    this process no texts."""
    first = next(iter(risk.params.values()))
    return None if isinstance(first, FakeTensor) or first.is_meta else unconfirmed(risk)


def unconfirmed(risk: EmpiricalRisk) -> int | None:
    """The same number as `due` gives, for a plan, which needs no contents."""
    if not risk.share.batches:
        return None
    number = best_batch(risk.share.batches)
    return None if _key(risk, risk.share.batches[number]) in _confirmed else number


def best_batch(batches: Sequence[Batch]) -> int:
    """The first batch of several sequences: one alone cannot be taken for another."""
    return next((number for number, batch in enumerate(batches) if len(batch["input_ids"]) > 1), 0)


def longest(batch: Batch) -> int:
    """The row of the longest text: it goes through most of the model."""
    return int(batch["attention_mask"].sum(1).argmax())


def row_of(batch: Batch, i: int) -> Batch:
    """A batch of row i alone."""
    return {key: tensor[i : i + 1] for key, tensor in batch.items()}


def _key(risk: EmpiricalRisk, batch: Batch) -> Hashable:
    """The class of a model and its shapes: its modules' classes, its settings, the parameters chosen and the others."""
    config = risk.model.config
    settings = config.to_dict() if hasattr(config, "to_dict") else vars(config)
    return (
        frozenset(type(module) for module in risk.model.modules()),
        repr(settings),
        tuple(repr(getattr(config, name, None)) for name in ("_attn_implementation", "_experts_implementation")),
        *(tuple((name, tuple(p.shape), p.dtype) for name, p in part.items()) for part in (risk.params, risk.fixed)),
        len(batch["input_ids"]) > 1,
    )


def _signs(params: Vector) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randint(0, 2, (len(as_matrix(p)),), generator=generator).mul(2).sub(1).to(p) for name, p in params.items()
    }


def _row_of(g: Tensor, signs_p: Tensor) -> Tensor:
    """`[q]`: u^T g; for a bias its own gradient, `[p]`."""
    g_pq = as_matrix(g)
    return g_pq[:, 0] if g_pq.shape[1] == 1 else (g_pq * signs_p[:, None]).sum(0)


def _row(use: Use, i: int, signs_p: Tensor) -> Tensor:
    """`_row_of` of what one use contributes to sequence i's gradient."""
    if isinstance(use, Direct):
        return _row_of(use.g_Bpq[i], signs_p)
    if use.right_BTq.shape[-1] == 1:
        return use.block(0, len(signs_p))[i, :, 0]
    left_T = signs_p[use.ids_BT[i]] if isinstance(use, Lookup) else (use.left_BTp[i] * signs_p).sum(-1)
    return (use.right_BTq[i] * left_T[:, None]).sum(0)


def _relative(found: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> dict[str, float]:
    lengths = dict(zip(rows, numbers(row.double().norm() for row in rows.values()), strict=True))
    floor = FLOOR * max(lengths.values())
    apart = numbers((found[name] - rows[name]).double().norm() for name in found)
    # where the gradient is nothing but zeros, the difference itself is the error
    return {name: error / ((lengths[name] + floor) or 1.0) for name, error in zip(found, apart, strict=True)}


def _worst(differences: Mapping[str, float]) -> tuple[str, float]:
    return max(differences.items(), key=lambda item: item[1] if item[1] == item[1] else float("inf"))
