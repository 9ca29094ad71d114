"""What curvature costs before it is computed: captures, products and gradients rehearsed with tensors that have no contents.

One product of each batch shape, and one capture of the largest and the shortest, are rehearsed with fake tensors, which have shapes
and no contents; solvers state their costs in terms of it. So a plan for a model that does not fit this machine can be made on it.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)

from unlearn_lib.curvature.capture import capture
from unlearn_lib.curvature.confirm import gradient_rows, unconfirmed
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.risk import EmpiricalRisk
from unlearn_lib.curvature.rounding import rounded_bytes
from unlearn_lib.curvature.uses import Outer, Use, as_matrix
from unlearn_lib.errors import InputError
from unlearn_lib.losses import Batch
from unlearn_lib.ranks import ALONE

FEW = 3
"""So many shapes of batches are all rehearsed; of more the two that tell what the others take."""


@dataclass(frozen=True)
class Capture:
    """One capture of all batches: bytes of one batch's peak and factors (`kept` of all that this process has), FLOPs of all."""

    peak: int
    largest: int
    kept: dict[str, int]  # by parameter; a tensor that several share counts for the first
    capture_flops: int
    product_flops: int  # what forming all gradients once takes: 2 T p q for each sequence and use
    uses: dict[str, list[Use]]  # those of the largest batch, without contents
    rounded: int  # bytes of `kept` once the factors are in bfloat16


@dataclass(frozen=True)
class Product:
    """One product with one batch: peak bytes, bytes kept after it, FLOPs to linearize, and FLOPs of the product."""

    peak: int
    kept: int
    build_flops: int
    flops: int


class Rehearsal:
    """What the parts of a solve take for one risk; each is rehearsed once, when it is first asked for."""

    def __init__(self, risk: EmpiricalRisk) -> None:
        self.risk = risk
        self._products: dict[tuple[tuple[int, int], bool], Product] = {}

    @cached_property
    def capture(self) -> Capture:
        """The capture of all parameters' uses."""
        return _rehearse(self.risk)

    def product(self, batch: Batch, *, linearize: bool) -> Product:
        """One product of the risk's operator with one batch; `linearize` keeps what does not depend on the vector."""
        key = _shape(batch), linearize
        if key not in self._products:
            self._products[key] = _rehearse_product(self.risk, key[0], linearize=linearize)
        return self._products[key]

    @cached_property
    def witness_flops(self) -> int:
        """FLOPs of comparing one text's factors with its gradient, where that is still to do."""
        number = unconfirmed(self.risk)
        if number is None:
            return 0
        batch = self.risk.share.batches[number]
        T = batch["input_ids"].shape[1]
        with _fake(self.risk, (1, T)) as (fake, row), Meter() as meter:
            signs = {name: torch.ones_like(as_matrix(p)[:, 0]) for name, p in fake.params.items()}
            gradient_rows(fake.losses(row), fake.params, signs, 0)
        flops: int = meter.flops
        return flops

    @cached_property
    def adjoint_peak(self) -> int:
        """Bytes of one G^T c by automatic differentiation, that is of a gradient."""
        ones = partial(torch.ones, dtype=self.risk.dtype, device=self.risk.device)
        return self._peak(lambda fake: fake.adjoint(ones(fake.sequences)))

    @cached_property
    def project_peak(self) -> int:
        """Bytes of one G v by automatic differentiation: more than of G^T c where there are many tokens to choose from."""
        return self._peak(lambda fake: fake.project({name: torch.empty_like(p) for name, p in fake.params.items()}))

    def _peak(self, product: Callable[[EmpiricalRisk], Any]) -> int:
        risk, peak = self.risk, 0
        for shape in {_shape(batch) for batch in risk.batches}:
            with _fake(risk, shape) as (fake, batch), torch.no_grad(), Meter() as meter:
                _only(fake, batch)
                product(fake)
            peak = max(peak, meter.peak)
        return peak + (risk.size * risk.dtype.itemsize if len(risk.batches) > 1 else 0)


def gradient_memory(risk: EmpiricalRisk) -> int:
    """Peak bytes of one gradient of the risk, result included, by rehearsal."""
    return Rehearsal(risk).adjoint_peak


def pass_memory(risk: EmpiricalRisk) -> int:
    """Peak bytes of a pass forwards and backwards over the largest batch, in which each parameter's gradient is given away at once."""
    with _fake(risk, max(map(_shape, risk.batches), key=lambda shape: shape[0] * shape[1])) as (fake, batch), Meter() as meter:
        leaves = {name: p.detach().requires_grad_() for name, p in fake.params.items()}
        for leaf in leaves.values():
            leaf.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))
        with torch.enable_grad():
            fake.losses(batch)(leaves).sum().backward()
    peak: int = meter.peak
    return peak


def _rehearse(risk: EmpiricalRisk) -> Capture:
    shapes = Counter(_shape(batch) for batch in risk.batches)
    found = {shape: _rehearse_shape(risk, shape) for shape in _told(shapes)}
    most = max(found.values(), key=lambda one: one.peak)
    own = Counter(_shape(batch) for batch in risk.share.batches)  # of several processes each keeps its own
    kept = {name: round(_total(own, {s: one.kept[name] for s, one in found.items()})) for name in risk.params}
    flops, products = ({s: getattr(one, part) for s, one in found.items()} for part in ("capture_flops", "product_flops"))
    half = round(_total(own, {s: one.rounded for s, one in found.items()}))
    return Capture(
        most.peak, most.largest, kept, round(_total(shapes, flops)), round(_total(shapes, products)), most.uses, half
    )


def _rehearse_shape(risk: EmpiricalRisk, shape: tuple[int, int]) -> Capture:
    """One capture of one batch."""
    with _fake(risk, shape) as (fake, batch), Meter() as meter:
        _, uses = capture(fake.losses(batch), fake.params, fake.fixed, shape, alike=risk.ranks.sharded)
    product_flops, half, kept, seen = 0, 0, dict.fromkeys(risk.params, 0), set()
    for name, found in uses.items():
        for use in found:
            if isinstance(use, Outer):
                product_flops += 2 * shape[0] * shape[1] * use.left_BTp.shape[-1] * use.right_BTq.shape[-1]
            for tensor, once_rounded in rounded_bytes(use):
                storage = tensor.untyped_storage()
                if storage._cdata not in seen:
                    seen.add(storage._cdata)
                    kept[name] += storage.nbytes()
                    half += once_rounded
    return Capture(meter.peak, meter.live, kept, meter.flops, product_flops, uses, half)


def _told(shapes: Collection[tuple[int, int]]) -> set[tuple[int, int]]:
    """The shapes that tell what all take: all of few, of many the largest and the shortest."""
    if len(shapes) <= FEW:
        return set(shapes)
    return {
        max(shapes, key=lambda shape: (shape[0] * shape[1], shape[1])),
        min(shapes, key=lambda shape: (shape[1], -shape[0])),
    }


def _total(shapes: Mapping[tuple[int, int], int], found: Mapping[tuple[int, int], float]) -> float:
    """The sum over all shapes of what was found for some: for each sequence a T + b T^2, with a and b from the longest and the shortest."""
    (least, T0), (most, T1) = min((v / B, T) for (B, T), v in found.items()), max((v / B, T) for (B, T), v in found.items())
    b = (most / T1 - least / T0) / (T1 - T0) if T1 > T0 else 0.0
    a = most / T1 - b * T1
    return sum(times * found.get((B, T), B * (a * T + b * T * T)) for (B, T), times in shapes.items())


def _rehearse_product(risk: EmpiricalRisk, shape: tuple[int, int], *, linearize: bool) -> Product:
    with _fake(risk, shape) as (fake, batch):
        _only(fake, batch)
        v = {name: torch.empty_like(p) for name, p in fake.params.items()}
        with torch.no_grad(), Meter() as meter:
            operator = fake.linearize() if linearize else fake
            operator.mv(v)
            first, kept = meter.flops, meter.live
            if linearize:  # what is kept may be made by the first product: the second is a product alone
                operator.mv(v)
            product = meter.flops - first if linearize else first
    return Product(meter.peak, kept, first - product, product)


def _shape(batch: Batch) -> tuple[int, int]:
    B, T = batch["input_ids"].shape
    return B, T


def _only(fake: Any, batch: Batch) -> None:
    """Let the risk be of one batch."""
    fake.ranks, fake.batches, fake.share = ALONE, [batch], ALONE.share([batch])
    fake.sequences = fake.share.texts


@contextmanager
def _fake(risk: EmpiricalRisk, shape: tuple[int, int]) -> Iterator[tuple[Any, Batch]]:
    """The risk with parameters, and a batch of that shape, that have no contents."""
    fake, every = copy.copy(risk), (*risk.params.values(), *risk.fixed.values())
    # a model that is not on this machine is of fake tensors already
    mode = next((p.fake_mode for p in every if isinstance(p, FakeTensor)), None) or FakeTensorMode(allow_non_fake_inputs=True)
    fake.params = fake.seen = {name: _stand_in(p, mode) for name, p in risk.params.items()}
    fake.fixed = {name: _stand_in(p, mode) for name, p in risk.fixed.items()}
    with mode:
        ids = torch.ones(shape, dtype=torch.long, device=risk.device)
        try:
            yield fake, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.ones_like(ids)}
        except (DataDependentOutputException, DynamicOutputShapeException) as error:
            raise InputError(
                "there is no plan for this model: what it computes depends on what the texts say, as in experts that sort their tokens, "
                "and a plan knows their lengths alone; run it without a plan"
            ) from error


def _stand_in(p: Tensor, mode: FakeTensorMode) -> Tensor:
    return p if isinstance(p, FakeTensor) else mode.from_tensor(p)
