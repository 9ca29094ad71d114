"""What a run will take, said before its long part starts: minutes, memory beside what there is, and whether retraining is cheaper."""

from __future__ import annotations

import time
from typing import Any

import psutil
import torch

from unlearn_lib.errors import InputError
from unlearn_lib.launched import processes_here
from unlearn_lib.losses import evaluate
from unlearn_lib.methods.budget import FORWARD
from unlearn_lib.methods.plan import MethodPlan
from unlearn_lib.methods.retrain import Retrain
from unlearn_lib.progress import Say
from unlearn_lib.unlearning.unlearn import Prepared

WORTH_SAYING = 60.0
"""Seconds from which on a run is said to take its time."""
SLACK = 1.2
"""Plans and counts agree within a fifth."""


def forecast(model: Any, prepared: Prepared, looks: int, say: Say, plan: MethodPlan | None = None) -> None:
    """Plan the method, where that is not done yet, and say what it will take, with so many looks at losses for the report.

    Raises:
        InputError: It needs more memory than the machine has, whatever else runs; or its options fit no plan (a budget too small).

    Cost: the plan, and a forward pass of one batch of texts, which is timed.
    """
    plan = plan or prepared.method.plan(model, prepared.inputs)
    check_memory(plan, model.device, say)
    say_minutes(plan, looks, seconds_of_a_gradient(model, prepared), say)
    epochs = getattr(prepared.method, "retraining_epochs", None) or Retrain.model_fields["epochs"].default
    retraining = epochs * len(prepared.inputs.retain)
    if prepared.method.name != Retrain.name and 0 < retraining < plan.gradient_evaluations:
        say(
            f"note: the plan takes up to {plan.gradient_evaluations:,.0f} gradients of single texts, and retraining on the retained texts "
            f"for {epochs} epochs would take {retraining:,.0f}; fewer steps, or budget= where the method has it, take less"
        )


def check_memory(plan: MethodPlan, device: torch.device, say: Say) -> None:
    """Compare what a plan needs with what there is.

    Raises:
        InputError: The machine could not hold it with nothing else running.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
    else:
        memory, sharing = psutil.virtual_memory(), processes_here()
        free, total = memory.available // sharing, memory.total // sharing
    needed = plan.peak_memory_bytes
    told = f"about {needed / 2**30:,.1f} GiB of memory beyond the model are needed ({plan.detail})"
    remedy = "a smaller --batch-size, --batch-tokens or --max-length, or fewer terms= take less"
    if needed > SLACK * total:
        raise InputError(f"{told}, and {device} has {total / 2**30:,.1f} GiB in all; {remedy}")
    if needed > free:
        say(f"note: {told}, and {free / 2**30:,.1f} GiB are free on {device}; if it does not fit, {remedy}")


def seconds_of_a_gradient(model: Any, prepared: Prepared) -> float:
    """The seconds that the gradient of one text takes: three times a forward pass, which is timed on a batch of those to forget. No
    gradient is taken, because a method may treat the model as a black box that is too large for one."""
    texts = next(prepared.inputs.grouping.groups(prepared.inputs.forget))
    (batch,) = prepared.inputs.batches(texts, model.device)
    start = time.perf_counter()
    evaluate(model, [batch])
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return (time.perf_counter() - start) / FORWARD / len(texts)


def say_minutes(plan: MethodPlan, looks: int, seconds: float, say: Say) -> None:
    """Say how long a plan and the looks take, if that is long."""
    if (whole := (plan.gradient_evaluations + FORWARD * looks) * seconds) >= WORTH_SAYING:
        say(
            f"planned: at most {plan.gradient_evaluations:,.0f} gradients of single texts, and {looks:,} looks at losses for the report, "
            f"which take about {whole / 60:,.0f} minutes at {seconds:.2g} s a gradient"
        )
