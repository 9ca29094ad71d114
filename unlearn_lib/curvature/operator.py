"""What all curvature operators share: symmetric linear maps on vectors with the model's parameter names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import overload

import torch
from torch import Tensor

from unlearn_lib.curvature.vector import Vector, flatten, unflatten
from unlearn_lib.errors import InputError

MATRIX_LIMIT = 20_000


class Operator(ABC):
    """A symmetric linear operator. `params` gives the names, shapes, dtype and device of its vectors.

    `A @ v` takes a dict by parameter name, or one flat tensor `[P]`, and answers in the same form. `A + B` and `c * A` are
    operators again.
    """

    params: Vector

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
        if isinstance(v, Tensor):
            return flatten(self.mv(unflatten(v.to(self._dtype), self.params)))
        if v.keys() != self.params.keys():
            unknown = sorted(v.keys() ^ self.params.keys())
            raise InputError(f"the vector's names are not the operator's; they differ in: {', '.join(unknown[:5])}")
        return self.mv({name: v[name].to(tensor) for name, tensor in self.params.items()})

    def __add__(self, other: Operator) -> Operator:
        return Combination([(1.0, self), (1.0, other)])

    def __mul__(self, factor: float) -> Operator:
        return Combination([(float(factor), self)])

    __rmul__ = __mul__

    def as_matrix(self) -> Tensor:
        """`[P, P]`, one product a column: for small models.

        Raises:
            InputError: P is too large.
        """
        if self.size > MATRIX_LIMIT:
            raise InputError(
                f"a dense {self.size} x {self.size} matrix is refused (limit {MATRIX_LIMIT}); use products or a solver"
            )
        basis = torch.eye(self.size, dtype=self._dtype, device=next(iter(self.params.values())).device)
        return torch.stack([self @ column for column in basis], dim=1)

    def diagonal(self) -> Tensor:
        """`[P]`: the diagonal, from P products; operators that know a cheaper way override this."""
        return self.as_matrix().diagonal().clone()

    def trace(self) -> float:
        """The sum of the diagonal."""
        return float(self.diagonal().double().sum())

    @property
    def _dtype(self) -> torch.dtype:
        return next(iter(self.params.values())).dtype


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
        result: Vector = {}
        for factor, operator in self.terms:
            product = operator.mv(v)
            result = {name: factor * tensor + result.get(name, 0) for name, tensor in product.items()}
        return result

    def diagonal(self) -> Tensor:
        return torch.stack([factor * operator.diagonal() for factor, operator in self.terms]).sum(0)
