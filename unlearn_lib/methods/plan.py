"""What a method will take, before it runs: gradients and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from unlearn_lib.curvature import KFAC, EmpiricalFisher, Kronecker, plan, trainable
from unlearn_lib.curvature.rehearsal import gradient_memory
from unlearn_lib.curvature.uses import as_matrix
from unlearn_lib.losses import Batch


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
    """Bytes of one vector on the trainable parameters."""
    return sum(p.numel() * max(4, p.element_size()) for p in trainable(model).values())


def model_bytes(model: Any) -> int:
    """Bytes of the model, or of a copy of it: parameters and buffers (GPT-Neo's masks are 4 MiB a layer)."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def largest(batches: Sequence[Batch]) -> Batch:
    """The batch that takes most memory."""
    return max(batches, key=lambda batch: batch["input_ids"].numel())


def backward_bytes(model: Any, batches: Sequence[Batch]) -> float:
    """Peak bytes of a forward and backward pass over the largest of some batches."""
    return gradient_memory(EmpiricalFisher(model, [largest(batches)]))


def kfac_plan(model: Any, K: KFAC, detail: str) -> MethodPlan:
    """What building K-FAC and solving with it takes."""
    if not K.correction:
        found = plan(K, Kronecker(1.0))  # no cost depends on the damping
        return MethodPlan(found.gradient_evaluations, found.peak_memory_bytes, detail)
    return MethodPlan(kfac_gradients(K), kfac_bytes(K) + 2 * backward_bytes(model, K.batches), detail)


def kfac_gradients(K: KFAC) -> float:
    """What building EK-FAC and applying it twice (once to verify) takes at most, in gradients of single texts, by its FLOPs."""
    tokens = sum(batch["input_ids"].numel() for batch in K.batches)
    shapes = [as_matrix(param).shape for param in K.params.values()]
    squares = sum(side**2 for shape in shapes for side in shape if 1 < side <= K.max_side)
    building = K.samples * (K.positions + 2) * 2 * tokens * squares  # the correction turns both factors, of every use
    applying = 2 * sum(4 * p * q * (p + q) for p, q in shapes if 1 < p <= K.max_side)
    return (3 * K.samples + (building + applying) / K.gradient_flops) * K.sequences


def kfac_bytes(K: KFAC) -> float:
    """Bytes that EK-FAC keeps: both sides' eigenvectors and the eigenvalues of every matrix, and a side's decomposition in float64."""
    kept, most = 0, 0
    for param in K.params.values():
        sides = [side for side in as_matrix(param).shape if 1 < side <= K.max_side]
        kept += (sum(side**2 for side in sides) + 2 * param.numel()) * K.dtype.itemsize
        most = max([most, *(3 * 8 * side**2 for side in sides)])
    return kept + most
