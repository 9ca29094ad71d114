r"""What the Fisher methods share: powers of the damped Fisher of D+ at the current parameters, (F + lambda I)^p v.

The paper's own way (`solver="recursion"`, equations 7 and 8) takes mean gradients of mini-batches for its terms and cuts blocks;
all others take one term for every sequence, as the empirical Fisher is defined.
"""

from __future__ import annotations

from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from unlearn_lib.curvature import (
    KFAC,
    BlockRecursion,
    EmpiricalFisher,
    Solver,
    batch_gradient,
    from_blocks,
    named_solver,
    plan,
    solve,
    to_blocks,
    trainable,
)
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.vector import Vector, in_groups
from unlearn_lib.data.batches import collate
from unlearn_lib.errors import InputError
from unlearn_lib.methods.base import Inputs, Outcome
from unlearn_lib.methods.direction import DirectionMethod
from unlearn_lib.methods.plan import MethodPlan, kfac_plan, vector_bytes

FORGIVING = 0.05
"""A direction this far from exact (relative residual) is as good as exact: its length is found by measurement."""

RELATIVE = {"kfac": 1e-2, "diagonal": 1e-3, "block": 1e-2, "woodbury": 0.1, "dense": 0.1}

STREAMED = ("block", "woodbury")
"""Solvers on per-sequence gradients, which need not be kept."""

PAPER = {"solver": "recursion", "damping": 1.0, "width": 48, "terms": 1024, "retain_batch_size": 8}


class FisherMethod(DirectionMethod):
    """A method that multiplies by a power of the damped Fisher of D+.

    Options:
        solver: "kfac" (EK-FAC of the Gauss-Newton matrix, which is the true Fisher), "block" (diagonal blocks of the
            per-sequence empirical Fisher), "woodbury" (the whole matrix, exact), "diagonal", "recursion" (the paper's), "dense"
            (small models), or "identity" (no curvature: gradient ascent).
        damping: lambda; None for `relative_damping` times the mean of the Fisher's diagonal before the first step, which means
            the same for models of every size (paper: 1).
        relative_damping: The factor of that mean; None for what measured best for the solver (`benchmarks/methods.py`): 1e-2 for kfac and
            block, 1e-3 for diagonal, 0.1 for the whole matrix. Below 1e-2 K-FAC is better on some models and much worse on others.
        width: Block width B; blocks are cut from each parameter tensor, the last one padded (paper: 48; the cut is not stated).
        terms: m, the largest number of terms; fewer when D+ has fewer (paper: 1024).
        retain_batch_size: With "recursion": sequences of D+ whose mean gradient is one term (paper: not stated; its run times
            fit 8).
        passes: The parameters are worked through in so many groups, one after the other, each with gradients of its own: the same
            result in less memory, for more gradients (with "recursion", "block" and "woodbury").
        precision: The number format of the curvature; None for the model's.
    """

    solver: Literal["block", "woodbury", "diagonal", "kfac", "recursion", "dense", "identity"] = "kfac"
    damping: float | None = Field(None, gt=0)
    relative_damping: float | None = Field(None, gt=0)
    width: int = Field(48, ge=1)
    terms: int = Field(1024, ge=1)
    retain_batch_size: int = Field(1, ge=1)
    passes: int = Field(1, ge=1)
    precision: Literal["float32", "float64"] | None = None

    @model_validator(mode="after")
    def _own_terms(self) -> Self:
        if self.retain_batch_size > 1 and self.solver != "recursion":
            raise ValueError(f"retain_batch_size is for solver='recursion'; {self.solver} has one term for every sequence")
        if self.passes > 1 and self.solver not in (*STREAMED, "recursion"):
            raise ValueError(f"{self.solver} has no passes; they are for {', '.join(STREAMED)} and recursion")
        return self

    @property
    def uses_retain(self) -> bool:
        return self.solver != "identity"

    def fisher_power(self, model: Any, v: Vector, exponent: float, inputs: Inputs, outcome: Outcome) -> Vector:
        """(F + lambda I)^exponent v, with F from at most `terms` terms of D+ at the model's parameters."""
        if self.solver == "identity":
            return v
        if self.solver == "recursion":
            return self._by_recursion(model, v, exponent, inputs, outcome)
        examples = inputs.some_retain(self.terms)
        batches = inputs.batches(examples, model.device)
        outcome.details["terms"] = len(examples)
        F = (
            KFAC(model, batches, precision=self.precision, seed=inputs.seed + len(outcome.history))
            if self.solver == "kfac"
            else EmpiricalFisher(model, batches, precision=self.precision)
        )
        damping = self.damping or once_relative(F, self.relative_damping or RELATIVE[self.solver], outcome, self.passes)
        solution = solve(F, F.own_form(v), self._with(damping), exponent=exponent, tolerance=FORGIVING)
        return outcome.take(solution)

    def curvature_plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        if self.solver == "identity":
            return MethodPlan(0, 0, "no curvature")
        if self.solver == "recursion":
            terms = min(self.terms, -(-len(inputs.retain) // self.retain_batch_size))
            sizes = {name: p.numel() for name, p in trainable(model).items()}
            parts = [sum(sizes[name] for name in group) for group in in_groups(sizes, self.passes)]
            share = max(parts) / max(1, sum(parts))
            memory: float = vector_bytes(model) * (share * self.width + 3)
            detail = f"{terms} terms, blocks of {self.width}" + (f", {len(parts)} passes" if len(parts) > 1 else "")
            return MethodPlan(len(parts) * terms * self.retain_batch_size, memory, detail)
        examples = inputs.some_retain(self.terms)
        batches = inputs.batches(examples, model.device)
        if self.solver == "kfac":
            K = KFAC(model, batches, precision=self.precision)
            return kfac_plan(K, f"K-FAC of {len(examples)} texts")
        F = EmpiricalFisher(model, batches, precision=self.precision)
        found = plan(F, self._with(self.damping or 1.0))  # no cost depends on the damping
        captures = 1 if self.passes == 1 else (2 * self.passes + 1) / 3  # of each text, for the trace
        trace = 0 if self.damping else captures * len(examples) / max(1, self.steps)
        detail = f"{found}, with {len(examples)} texts"
        return MethodPlan(found.gradient_evaluations + trace, found.peak_memory_bytes, detail)

    def _with(self, damping: float) -> Solver:
        blocks: dict[str, Any] = {"width": self.width} if self.solver == "block" else {}
        passes: dict[str, Any] = {"keep": "nothing", "passes": self.passes} if self.passes > 1 else {}
        return named_solver(self.solver, damping, **blocks, **passes)

    def _by_recursion(self, model: Any, v: Vector, exponent: float, inputs: Inputs, outcome: Outcome) -> Vector:
        """F_m from m batches of D+ in an order drawn from the seed (a new order for every step); F_m^exponent v."""
        if self.damping is None:
            raise InputError("solver='recursion' starts from I / damping; give damping=... (the paper: 1)")
        draw = len(outcome.history)
        generator = torch.Generator().manual_seed(inputs.seed * 1_000_003 + draw)
        order = torch.randperm(len(inputs.retain), generator=generator).tolist()
        pieces = [order[i : i + self.retain_batch_size] for i in range(0, len(order), self.retain_batch_size)][: self.terms]
        found: Vector = {}
        parts = in_groups({name: tensor.numel() for name, tensor in v.items()}, self.passes)
        for part, names in enumerate(parts):
            own_KB = to_blocks({name: v[name] for name in names}, self.width)
            own_KB = own_KB.double() if self.precision == "float64" else own_KB
            recursion = BlockRecursion(len(own_KB), self.width, self.damping, len(pieces), own_KB)
            for number, piece in enumerate(pieces):
                loss, g = batch_gradient(model, collate([inputs.retain[i] for i in piece], model.device))
                recursion.add(to_blocks({name: g[name] for name in names}, self.width).to(own_KB))
                outcome.gradient_evaluations += len(piece)
                if inputs.progress is not None:
                    inputs.progress(part * len(pieces) + number + 1, len(parts) * len(pieces), loss)
            powered_KB = recursion.apply(own_KB) if exponent == -1.0 else recursion.apply_root(own_KB, -exponent)
            found |= from_blocks(powered_KB, {name: v[name] for name in names})
        outcome.details["terms"] = len(pieces)
        return found


def once_relative(F: EmpiricalFisher | KFAC, share: float, outcome: Outcome, passes: int = 1) -> float:
    """lambda = share * (mean of F's diagonal before the first step), kept in `outcome` for the steps after it.

    The cost of the trace, for K-FAC that of building it, goes to `outcome`, too. With several passes the gradients of a Fisher are taken
    in as many, so that the trace needs no more memory than the steps.
    """
    if "damping" not in outcome.details:
        with Meter() as meter:
            if (
                isinstance(F, EmpiricalFisher) and passes > 1
            ):  # tr F = (1/n) sum_i |g_i|^2, a part of the parameters in memory at a time
                trace = float(F.gradients(keep="nothing", passes=passes).norms().square().mean())
            else:
                trace = F.trace()
        outcome.gradient_evaluations += F.counted(meter)
        outcome.details["damping"] = share * trace / F.size
    damping: float = outcome.details["damping"]
    if damping == 0:
        raise InputError("the curvature of the retain set is zero, so it sets no damping; give damping=...")
    return damping
