"""What all curvature operators share: symmetric linear maps on vectors with the model's parameter names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, overload

import torch
from torch import Tensor

from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.vector import Vector, flatten, scale, total, unflatten
from unlearn_lib.errors import InputError
from unlearn_lib.losses import without_autocast
from unlearn_lib.ranks import ranks

MATRIX_LIMIT = 20_000
# what multiplies or differentiates, in whichever operator defines it
NUMERICAL = ("mv", "power", "project", "adjoint", "gradient_graph", "logits_graph", "linearize", "as_matrix", "diagonal")


class Operator(ABC):
    """A symmetric linear operator. `params` gives the names, shapes, dtype and device of its vectors.

    `A @ v` takes a dict by parameter name, or one flat tensor `[P]`, and answers in the same form. `A + B` and `c * A` are
    operators again. A `torch.autocast` around a call has no effect on it. An operator knows its products and no solver;
    `unlearn_lib.curvature.solving` brings the two together.
    """

    params: Vector

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in NUMERICAL:
            if name in vars(cls):
                setattr(cls, name, without_autocast()(vars(cls)[name]))

    @abstractmethod
    def mv(self, v: Vector) -> Vector:
        """A v for a dict."""

    @property
    def size(self) -> int:
        """P, the number of parameters."""
        return sum(tensor.numel() for tensor in self.params.values())

    @overload
    def __matmul__(self, v: Vector) -> Vector: ...
    @overload
    def __matmul__(self, v: Tensor) -> Tensor: ...
    def __matmul__(self, v: Vector | Tensor) -> Vector | Tensor:
        product = self.mv(self.own_form(v))
        return flatten(product) if isinstance(v, Tensor) else product

    def own_form(self, v: Vector | Tensor) -> Vector:
        """v as a dict in the operator's order, number format and device.

        Raises:
            InputError: Other names, or another size.
        """
        if isinstance(v, Tensor):
            return unflatten(v.to(self.dtype), self.params)
        if v.keys() != self.params.keys():
            unknown = sorted(v.keys() ^ self.params.keys())
            raise InputError(f"the vector's names are not the operator's; they differ in: {', '.join(unknown[:5])}")
        return {name: v[name].to(tensor) for name, tensor in self.params.items()}

    def __add__(self, other: Operator) -> Operator:
        return Combination([(1.0, self), (1.0, other)])

    def __mul__(self, factor: float) -> Operator:
        return Combination([(float(factor), self)])

    __rmul__ = __mul__

    def linearize(self) -> Operator:
        """The same operator with everything kept that does not depend on the vector, where it knows a way: cheaper products.

        What is kept of all batches stays in memory until the operator is dropped: the activations of the forward pass, for
        `Hessian` and `GaussNewton` those of the backward pass as well, about three times what a gradient needs. Worth it from the
        second product on.
        """
        return self

    def as_matrix(self) -> Tensor:
        """`[P, P]`, one product a column: for small models.

        Raises:
            InputError: P is too large.
        """
        self.check_size()
        basis, kept = torch.eye(self.size, dtype=self.dtype, device=self.device), self.linearize()
        return torch.stack([kept @ column for column in basis], dim=1)

    def check_size(self) -> None:
        """Refuse to form a dense matrix that is too large.

        Raises:
            InputError: P is above the limit.
        """
        if self.size > MATRIX_LIMIT:
            raise InputError(
                f"a dense {self.size} x {self.size} matrix is refused (limit {MATRIX_LIMIT}); use products or another solver"
            )

    def diagonal(self) -> Tensor:
        """`[P]`: the diagonal, from P products; operators that know a cheaper way override this."""
        return self.as_matrix().diagonal().clone()

    def trace(self) -> float:
        """The sum of the diagonal."""
        return float(self.diagonal().double().sum())

    @property
    def gradient_flops(self) -> int:
        """FLOPs of the gradients of all the operator's texts, each taken once; 0 where there are none."""
        return 0

    def texts_worth(self, flops: float) -> float:
        """The number of gradients of single texts (forward and backward) that so many FLOPs would have paid for; 0 without texts."""
        return 0.0

    def counted(self, meter: Meter) -> float:
        """The gradients of single texts that the FLOPs would have paid for which a meter has counted, in all processes together."""
        return self.texts_worth(ranks().add_number(meter.flops, self.device))

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the vectors."""
        return next(iter(self.params.values())).dtype

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        return next(iter(self.params.values())).device


class Derived(Operator):
    """Base of the operators that are made from another one: on the same vectors, and counted in gradients of the same texts."""

    def __init__(self, of: Operator) -> None:
        self.of, self.params = of, of.params

    @property
    def gradient_flops(self) -> int:
        return self.of.gradient_flops

    def texts_worth(self, flops: float) -> float:
        return self.of.texts_worth(flops)


class Combination(Operator):
    """A linear combination of operators on the same parameters."""

    def __init__(self, terms: list[tuple[float, Operator]]) -> None:
        first = terms[0][1]
        for _, operator in terms[1:]:
            if {n: t.shape for n, t in operator.params.items()} != {n: t.shape for n, t in first.params.items()}:
                raise InputError("operators on different parameters cannot be added")
        self.terms = terms
        self.params = first.params

    def mv(self, v: Vector) -> Vector:
        return total(scale(factor, operator.mv(v)) for factor, operator in self.terms)

    def linearize(self) -> Operator:
        return Combination([(factor, operator.linearize()) for factor, operator in self.terms])

    @property
    def gradient_flops(self) -> int:
        return self._dearest.gradient_flops

    def texts_worth(self, flops: float) -> float:
        return self._dearest.texts_worth(flops)

    @cached_property
    def _dearest(self) -> Operator:
        """The operator whose gradients cost most: they are what FLOPs are counted in."""
        return max((operator for _, operator in self.terms), key=lambda operator: operator.gradient_flops)

    def diagonal(self) -> Tensor:
        return torch.stack([factor * operator.diagonal() for factor, operator in self.terms]).sum(0)
