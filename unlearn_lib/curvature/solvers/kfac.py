"""The inverse, and any power, of a K-FAC operator plus damping: exact, by its eigenvalues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unlearn_lib.curvature.kfac import KFAC
from unlearn_lib.curvature.kfac_cost import kfac_cost
from unlearn_lib.curvature.moments import Eigen
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.rehearsal import Rehearsal
from unlearn_lib.curvature.solvers.base import Solver
from unlearn_lib.curvature.solvers.inverse import Inverse
from unlearn_lib.curvature.vector import Vector
from unlearn_lib.errors import InputError


@dataclass(frozen=True)
class Kronecker(Solver):
    """(KFAC + damping I)^p, or with each factor damped by itself.

    Args:
        damping: lambda > 0.
        factored: Instead of L (x) R + lambda I take (L + pi sqrt(lambda) I) (x) (R + sqrt(lambda) / pi I), pi^2 the ratio of the mean
            eigenvalues of L and R (Martens and Grosse 2015, section 6.3). A direction that no text of the sample shows (a word that
            occurs in none of them) then counts as one that such texts show now and then, and not as one that may be moved for
            nothing. Of a block that is the sum of several products (a tied weight) the factors are its partial traces. For K-FAC's own
            eigenvalues only.

    Cost: an application takes 4 p q (p + q) FLOPs for each p x q matrix, and the first one builds the operator as well, which is nearly
    all of it, and is done once however often it is inverted.
    """

    name: ClassVar[str] = "kfac"

    factored: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.damping == 0:
            raise InputError("the kfac solver needs damping > 0: an estimate from few sequences is singular")

    def prepare(self, operator: Operator) -> Inverse:
        K = self._kfac(operator)
        if self.factored and K.correction:
            raise InputError(
                "EK-FAC's eigenvalues are no products, so their damping cannot be factored; use KFAC(correction=False)"
            )
        return KroneckerInverse(K, self.damping, self.factored)

    def cost(self, rehearsal: Rehearsal) -> tuple[float, float]:
        """What building takes (`kfac_cost`), and an application and its check."""
        K = self._kfac(rehearsal.risk)
        building = kfac_cost(K, rehearsal)
        vectors = 3 * K.size
        if K.ranks.sharded:  # and one parameter at a time is whole
            vectors = -(-vectors // K.ranks.size) + 2 * max(p.numel() for p in K.params.values())
        return max(building.peak, building.kept + vectors * K.dtype.itemsize), building.flops + 2 * building.product_flops

    def _kfac(self, operator: Operator) -> KFAC:
        if not isinstance(operator, KFAC):
            raise InputError(f"the kfac solver inverts a KFAC operator, not a {type(operator).__name__}")
        return operator


class KroneckerInverse(Inverse):
    """Inverse and powers of a K-FAC operator by its eigenvalues."""

    def __init__(self, operator: KFAC, damping: float, factored: bool = False) -> None:
        super().__init__(operator, damping)
        self._kfac, self._factored = operator, factored

    @property
    def system(self) -> str:
        return super().system + (" by factors" if self._factored else "")

    def power(self, v: Vector, exponent: float) -> Vector:
        damped = by_factors if self._factored else by_sum
        return self._kfac.applied(lambda e, v: e.apply(v, damped(e, self.damping) ** exponent), v)


def by_sum(e: Eigen, damping: float) -> Tensor:
    """`[p, q]`: the eigenvalues plus lambda."""
    return e.values_pq + damping


def by_factors(e: Eigen, damping: float) -> Tensor:
    """`[p, q]`: (l + pi sqrt(lambda)) (r + sqrt(lambda) / pi), for the eigenvalues l r; of a mere diagonal its entries plus lambda."""
    if e.left_pp is None and e.right_qq is None:
        return by_sum(e, damping)
    whole = e.values_pq.double().sum()
    l_p, r_q = (e.values_pq.double().sum(dim) / whole.sqrt() for dim in (1, 0))
    pi = (l_p.mean() / r_q.mean()).sqrt()
    root = damping**0.5
    product_pq = torch.outer(l_p + pi * root, r_q + root / pi).to(e.values_pq)
    return torch.where(whole == 0, by_sum(e, damping), product_pq)  # of a block of zeros pi is 0 / 0
