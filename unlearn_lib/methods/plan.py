"""What a method will take, before it runs: gradients and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unlearn_lib.curvature import KFAC, EmpiricalFisher, Kronecker, plan, trainable
from unlearn_lib.curvature.rehearsal import gradient_memory, pass_memory
from unlearn_lib.losses import Batch
from unlearn_lib.ranks import ranks
from unlearn_lib.shards import gathered_bytes

KEPT = 2 / 3
"""Of what a backward pass takes so much is there from its forward pass on, as measured on nano models; the rest comes and goes."""


@dataclass(frozen=True)
class MethodPlan:
    """`gradient_evaluations` of single texts, at most; `peak_memory_bytes` beyond the given model; what they are made of."""

    gradient_evaluations: float
    peak_memory_bytes: float
    detail: str

    def __str__(self) -> str:
        memory = f"about {self.peak_memory_bytes / 2**20:,.0f} MiB of memory beyond the model"
        return f"at most {self.gradient_evaluations:,.0f} gradients of single texts and {memory} ({self.detail})"


def vector_bytes(model: Any) -> int:
    """Bytes of one vector on the trainable parameters, or of a process's part of it."""
    return -(-sum(p.numel() * max(4, p.element_size()) for p in trainable(model).values()) // _parts())


def model_bytes(model: Any) -> int:
    """Bytes of the model, or of a copy of it: parameters, or a process's part of them, and buffers (GPT-Neo's masks are 4 MiB a layer)."""
    every = [list[Tensor](model.parameters()), list[Tensor](model.buffers())]
    parameters, buffers = (sum(tensor.numel() * tensor.element_size() for tensor in some) for some in every)
    return -(-parameters // _parts()) + buffers


def _parts() -> int:
    return ranks().size if ranks().sharded else 1


def largest(batches: Sequence[Batch]) -> Batch:
    """The batch that takes most memory."""
    return max(batches, key=lambda batch: batch["input_ids"].numel())


def backward_bytes(model: Any, batches: Sequence[Batch]) -> float:
    """Peak bytes of a forward and backward pass over the largest of some batches, the gradient included."""
    risk = EmpiricalFisher(model, [largest(batches)])
    if not ranks().sharded:
        return gradient_memory(risk)
    return pass_memory(risk) + vector_bytes(model) + gathered_bytes(model)


def joint_backward_bytes(model: Any, batches: Sequence[Batch]) -> float:
    """Peak bytes of a loss with a term on each batch: the graphs of all terms are there until the loss is differentiated."""
    peaks = sorted((backward_bytes(model, [batch]) for batch in batches), reverse=True)
    return peaks[0] + KEPT * sum(peaks[1:])


def kfac_plan(K: KFAC, detail: str) -> MethodPlan:
    """What building K-FAC, solving with it once and checking that takes."""
    found = plan(K, Kronecker(1.0))  # no cost depends on the damping
    return MethodPlan(found.gradient_evaluations, found.peak_memory_bytes, detail)
