"""What a solve will need, before it starts: peak bytes and gradient evaluations.

One capture (or product) of each batch shape is rehearsed with fake tensors, which have shapes and no contents; the rest
follows from the solver's formulas. So a plan for a model that does not fit this machine can be made on it. Shape suffixes: n
sequences, P parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property, partial
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
from unlearn_lib.curvature.empirical_fisher import EmpiricalFisher
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.per_sequence import SequenceGradients, groups
from unlearn_lib.curvature.risk import EmpiricalRisk
from unlearn_lib.curvature.solvers.cg import RECOMPUTE
from unlearn_lib.curvature.uses import Outer, as_matrix
from unlearn_lib.errors import InputError
from unlearn_lib.losses import Batch

PLANNED = ("woodbury", "block", "diagonal", "recursion", "cg")
PASSES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True)
class Plan:
    """The needs of one verified solve without refinement.

    Attributes:
        solver, options: Of the solve.
        peak_memory_bytes: Of live tensors beyond model, data and the vector.
        gradient_evaluations: As in `Solution`; for cg those of `max_steps` steps, the most that can happen. With the comparison of
            one text that the first solve of a class of model makes (`SequenceGradients.check`), except for a model without contents.
    """

    solver: str
    options: Mapping[str, Any]
    peak_memory_bytes: int
    gradient_evaluations: float

    def __str__(self) -> str:
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        most = "at most " if self.solver == "cg" else ""
        memory = f"{self.peak_memory_bytes / 2**20:,.0f} MiB"
        return f"{self.solver}{options}: {memory}, {most}{self.gradient_evaluations:.1f} gradient evaluations"


def plan(risk: EmpiricalRisk, solver: str, options: Mapping[str, Any]) -> Plan:
    """The needs of `risk.solve(v, damping, solver, **options)`.

    Raises:
        InputError: A solver without a plan (dense and kfac keep p^2 numbers for each side and are for small or chosen
            parameters).
    """
    return _Planner(risk).plan(solver, options)


def gradient_memory(risk: EmpiricalRisk) -> int:
    """Peak bytes of one gradient of the risk, result included, by rehearsal."""
    return _Planner(risk).adjoint_peak


def refuse_what_does_not_fit(risk: EmpiricalRisk, solver: str, options: Mapping[str, Any], limit: int) -> None:
    """Compare the plan with a limit in bytes.

    Raises:
        InputError: It does not fit; with the first setting that does, where there is one.
    """
    planner = _Planner(risk)
    wanted = planner.plan(solver, options)
    if wanted.peak_memory_bytes <= limit:
        return
    others: list[tuple[str, dict[str, Any]]] = []
    if solver == "woodbury":
        rest = {key: value for key, value in options.items() if key not in ("keep", "passes")}
        others = [(solver, {**rest, "keep": "nothing", "passes": passes}) for passes in PASSES] + [("cg", {})]
    elif options.get("linearize"):
        others = [(solver, {**options, "linearize": False})]
    for other, changed in others:
        found = planner.plan(other, changed)
        if found.peak_memory_bytes <= limit:
            raise InputError(f"this solve needs more than the {limit / 2**20:,.0f} MiB allowed ({wanted}); what fits: {found}")
    raise InputError(
        f"this solve needs more than the {limit / 2**20:,.0f} MiB allowed ({wanted}); use smaller batches, fewer sequences, "
        "or a part of the parameters (params=)"
    )


@dataclass(frozen=True)
class _Rehearsal:
    """One capture of all batches. Bytes of one batch's peak and factors (all batches' `kept`), FLOPs of all."""

    peak: int
    largest: int
    kept: dict[str, int]  # by parameter; a tensor that several share counts for the first
    capture_flops: int
    product_flops: int  # of forming all gradients once: 2 T p q for each sequence and use


def _rehearse(risk: EmpiricalRisk) -> _Rehearsal:
    shapes: dict[tuple[int, int], int] = {}
    for batch in risk.batches:
        shapes[_shape(batch)] = shapes.get(_shape(batch), 0) + 1
    peak = largest = capture_flops = product_flops = 0
    kept = dict.fromkeys(risk.params, 0)
    for shape, times in shapes.items():
        with _fake(risk, shape) as (fake, batch), Meter() as meter:
            _, uses = capture(fake.losses(batch), fake.params, fake.fixed, shape)
        seen: set[int] = set()
        for name, found in uses.items():
            for use in found:
                if isinstance(use, Outer):
                    product_flops += 2 * times * shape[0] * shape[1] * use.left_BTp.shape[-1] * use.right_BTq.shape[-1]
                for tensor in use.tensors:
                    storage = tensor.untyped_storage()
                    if storage._cdata not in seen:
                        seen.add(storage._cdata)
                        kept[name] += times * storage.nbytes()
        if meter.peak > peak:
            peak, largest = meter.peak, meter.live
        capture_flops += times * meter.flops
    return _Rehearsal(peak, largest, kept, capture_flops, product_flops)


class _Planner:
    """Plans for one risk, which is rehearsed once for all of them."""

    def __init__(self, risk: EmpiricalRisk) -> None:
        self.risk = risk

    @cached_property
    def rehearsal(self) -> _Rehearsal:
        return _rehearse(self.risk)

    def plan(self, solver: str, options: Mapping[str, Any]) -> Plan:
        """See `plan`."""
        if solver not in PLANNED:
            raise InputError(f"there is no plan for solver {solver!r}; there is one for {', '.join(PLANNED)}")
        peak, flops = self.cg(options) if solver == "cg" else self.by_gradients(solver, options)
        if solver != "cg" or (options.get("linearize") and isinstance(self.risk, EmpiricalFisher)):
            flops += self.witness_flops
        return Plan(solver, dict(options), round(peak), flops / self.risk.gradient_flops)

    def by_gradients(self, solver: str, options: Mapping[str, Any]) -> tuple[float, float]:
        """`(peak bytes, FLOPs)` of the solvers that work on per-sequence gradients."""
        risk, n, P = self.risk, self.risk.sequences, self.risk.size
        shared = {key: value for key, value in options.items() if key in ("keep", "passes", "chunk")}
        if solver == "recursion":
            shared["keep"] = "gradients"
        gradients = SequenceGradients(risk, **shared)
        r, number = self.rehearsal, risk.dtype.itemsize
        vector, G = P * number, n * P * number
        kept = sum(r.kept.values())
        numbers = max(_block_numbers(gradients, p) for p in risk.params.values())
        block: float = numbers * number * (2 if len(risk.batches) > 1 else 1)
        gram_flops = 2 * n * n * P + 2 * n * P if solver == "woodbury" else 0
        width = options.get("width") or 48
        if solver == "block":  # in float64: columns, blocks and their factors
            block += 8 * numbers * (2 + 3 * width / n)
            gram_flops = 2 * n * P * width
        if gradients.keep == "nothing":
            parts = [sum(r.kept[name] for name in group) for group in groups(risk.params, gradients.passes)]
            share = max(parts) / max(1, kept)
            peak: float = max(r.peak + share * (kept - r.largest), share * kept + block)
            captures, later = len(parts), 3 * risk.gradient_flops
            if solver == "woodbury":
                peak = max(peak, vector + max(self.adjoint_peak, self.project_peak), 3 * vector)
                return peak, captures * r.capture_flops + r.product_flops + gram_flops + later
            return peak + 2 * vector, captures * r.capture_flops + r.product_flops + gram_flops
        capturing = kept - r.largest + r.peak
        if gradients.keep == "gradients":
            stored = max(capturing, kept + max(p.numel() for p in risk.params.values()) * n * number, G)
            rows = {"recursion": 2 * G + 3 * vector}.get(solver, block + 3 * vector)
            flops = r.capture_flops + r.product_flops + gram_flops + 3 * 2 * n * P
            return max(stored, G + rows), flops + (2 * n * n * P if solver == "recursion" else 0)
        if solver == "woodbury":
            return max(capturing, kept + block, kept + 3 * vector), r.capture_flops + 4 * r.product_flops + gram_flops
        return max(capturing, kept + block + 2 * vector), r.capture_flops + r.product_flops + gram_flops

    @cached_property
    def witness_flops(self) -> int:
        """FLOPs of comparing one text's factors with its gradient, where that is still to do."""
        number = unconfirmed(self.risk)
        if number is None:
            return 0
        batch = self.risk.batches[number]
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
                fake.batches, fake.sequences = [batch], shape[0]
                product(fake)
            peak = max(peak, meter.peak)
        return peak + (risk.size * risk.dtype.itemsize if len(risk.batches) > 1 else 0)

    def cg(self, options: Mapping[str, Any]) -> tuple[float, float]:
        """`(peak bytes, FLOPs of max_steps steps)`: five vectors beside the largest product."""
        steps, linearize = options.get("max_steps", 500), options.get("linearize", False)
        rehearse = cache(partial(_rehearse_product, self.risk, linearize=linearize))
        peak = kept = flops = 0
        for batch in self.risk.batches:
            once, left, build, product = rehearse(_shape(batch))
            flops += build + (1 + steps + steps // RECOMPUTE) * product
            peak = max(peak, kept + once)
            if linearize:
                kept += left
        more = 2 if len(self.risk.batches) > 1 else 0
        return peak + (4 + more) * self.risk.size * self.risk.dtype.itemsize, flops


def _rehearse_product(risk: EmpiricalRisk, shape: tuple[int, int], *, linearize: bool) -> tuple[int, int, int, int]:
    """Of one product with one batch: peak bytes, bytes kept after it, FLOPs to linearize, and FLOPs of the product."""
    with _fake(risk, shape) as (fake, batch):
        fake.batches, fake.sequences = [batch], shape[0]
        v = {name: torch.empty_like(p) for name, p in fake.params.items()}
        with torch.no_grad(), Meter() as meter:
            operator = fake.linearize() if linearize else fake
            operator.mv(v)
            first, kept = meter.flops, meter.live
            if linearize:  # what is kept may be made by the first product: the second is a product alone
                operator.mv(v)
            product = meter.flops - first if linearize else first
    return meter.peak, kept, first - product, product


def _shape(batch: Batch) -> tuple[int, int]:
    B, T = batch["input_ids"].shape
    return B, T


@contextmanager
def _fake(risk: EmpiricalRisk, shape: tuple[int, int]) -> Iterator[tuple[Any, Batch]]:
    """The risk with parameters, and a batch of that shape, that have no contents."""
    fake, every = copy.copy(risk), (*risk.params.values(), *risk.fixed.values())
    # a model that is not on this machine is of fake tensors already
    mode = next((p.fake_mode for p in every if isinstance(p, FakeTensor)), None) or FakeTensorMode(allow_non_fake_inputs=True)
    fake.params = {name: _stand_in(p, mode) for name, p in risk.params.items()}
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


def _block_numbers(gradients: SequenceGradients, p: Tensor) -> int:
    rows, q = as_matrix(p).shape
    return gradients.n * q * min(rows, gradients.rows_at_once(p))
