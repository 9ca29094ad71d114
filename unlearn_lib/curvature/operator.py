"""What all curvature operators share: symmetric linear maps on vectors with the model's parameter names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, overload

import torch
from torch import Tensor

from unlearn_lib.curvature.vector import Vector, flatten, scale, total, unflatten
from unlearn_lib.errors import InputError
from unlearn_lib.losses import without_autocast

if TYPE_CHECKING:
    from unlearn_lib.curvature.solution import Solution
    from unlearn_lib.curvature.solvers.base import Inverse

MATRIX_LIMIT = 20_000
# what multiplies or differentiates, in whichever operator defines it
NUMERICAL = ("mv", "power", "project", "adjoint", "gradient_graph", "logits_graph", "linearize", "as_matrix", "diagonal")


class Operator(ABC):
    """A symmetric linear operator. `params` gives the names, shapes, dtype and device of its vectors.

    `A @ v` takes a dict by parameter name, or one flat tensor `[P]`, and answers in the same form. `A + B` and `c * A` are
    operators again. A `torch.autocast` around a call has no effect on it.
    """

    params: Vector
    default_solver = "cg"

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
        """The same operator with everything kept that does not depend on the vector: cheaper products for more memory, see
        `unlearn_lib.curvature.linearized`. Worth it from the second product on."""
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

    def solve(
        self,
        v: Vector | Tensor,
        damping: float,
        solver: str | None = None,
        *,
        exponent: float = -1.0,
        tolerance: float | None = None,
        throw: bool = True,
        memory_limit: int | None = None,
        **options: Any,
    ) -> Solution:
        """Solve (A + damping I) x = v, or apply another power: x = (A + damping I)^exponent v.

        Args:
            v: Dict by parameter name, or flat `[P]`.
            damping: lambda, at least 0.
            solver: `"woodbury"`, `"recursion"` (empirical Fisher), `"kfac"` (KFAC), `"block"`, `"diagonal"`, `"dense"`, `"cg"`;
                default: woodbury for the Fisher, kfac for KFAC, else cg.
            exponent: p; cg and recursion know -1 only.
            tolerance: Relative residual to reach; default 3e-5 in float32, 1e-9 in float64.
            throw: Raise where the tolerance is not reached; otherwise return what there is, with the reason.
            memory_limit: Bytes beyond model, data and v that may be used; what the plan says would not fit is refused before
                it starts.
            options: Of the solver, see its class.

        Returns:
            A `Solution` with x in the form of v, the true residual, the reason for stopping, and the cost.

        Raises:
            InputError: Unknown solver or option, a vector that does not fit, a damping that is not usable.
            NumericsError: v is not finite; the damping is too small for the number format; `NotConvergedError` (with `throw`).
        """
        from unlearn_lib.curvature.solve import solve  # the solvers build on operators

        return solve(
            self,
            v,
            damping,
            solver,
            exponent=exponent,
            tolerance=tolerance,
            throw=throw,
            memory_limit=memory_limit,
            options=options,
        )

    def inverse(self, damping: float, solver: str, **options: Any) -> Inverse:
        """(A + damping I)^-1 as an operator that is prepared once and applied often, for example as a preconditioner."""
        from unlearn_lib.curvature.solve import inverse

        return inverse(self, damping, solver, options)

    @property
    def gradient_flops(self) -> int:
        """FLOPs of one gradient over the operator's sequences; 0 where there are none."""
        return 0

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the vectors."""
        return next(iter(self.params.values())).dtype

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        return next(iter(self.params.values())).device


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
        return max(operator.gradient_flops for _, operator in self.terms)

    def diagonal(self) -> Tensor:
        return torch.stack([factor * operator.diagonal() for factor, operator in self.terms]).sum(0)
