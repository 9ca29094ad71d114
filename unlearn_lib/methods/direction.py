r"""Methods that step along a direction: theta += step * d(theta), once or a few times with d computed anew.

With `step="calibrate"` step k of K goes to the first length at which the mean forget loss has risen by k / K of the gap.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from unlearn_lib.curvature import trainable
from unlearn_lib.curvature.gradient import mean_gradient
from unlearn_lib.curvature.vector import Vector, dot
from unlearn_lib.data.batches import Example
from unlearn_lib.methods.base import Inputs, Outcome
from unlearn_lib.methods.plan import MethodPlan, backward_bytes, model_bytes, vector_bytes
from unlearn_lib.methods.resume import Weights
from unlearn_lib.methods.target import Calibrated, walk


class DirectionMethod(Calibrated):
    """A method that follows a direction.

    Options:
        step: The factor of the direction, or "calibrate": as far as the forget loss needs (forward passes only).
        steps: How often the direction is computed anew and followed.
        forget_batch_size: Sequences of D- that make one step; the default is all of them.
        focus: With "calibrate": only texts whose own loss is below the goal push in the next step, so that few texts do not
            make up the mean for all.
    """

    strength: ClassVar[str] = "step"

    step: float | Literal["calibrate"] = Field("calibrate", union_mode="left_to_right")
    steps: int = Field(1, ge=1)
    forget_batch_size: int | None = Field(None, ge=1)
    focus: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.step == "calibrate":
            if self.forget_batch_size is not None:
                raise ValueError("step='calibrate' takes the forget set as a whole; leave out forget_batch_size")
        elif isinstance(self.step, (int, float)) and not self.step > 0:
            raise ValueError(f"step is {self.step}; it must be positive, or 'calibrate'")
        return self

    @property
    def calibrates(self) -> bool:
        return self.step == "calibrate"

    @property
    def unit(self) -> float:
        """The length that step=1 stands for."""
        return 1.0

    @abstractmethod
    def direction(self, model: Any, g: Vector, inputs: Inputs, outcome: Outcome) -> Vector:
        """d at the model's parameters, where g is the gradient of the forget loss. Costs go to `outcome`."""

    @abstractmethod
    def curvature_plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        """What computing one direction takes, the forget gradient left out."""

    def follow(self, model: Any, d: Vector, inputs: Inputs, outcome: Outcome) -> float:
        """Move the model along d where nothing is calibrated; returns how far, as a multiple of d."""
        length = float(self.step) * self.unit
        _move(model, d, length)
        return length

    def plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        inputs, _ = self.split(inputs)
        batches = inputs.forget_batches(self.forget_batch_size)
        steps, one = self.steps * len(batches), self.curvature_plan(model, inputs)
        backward = backward_bytes(model, inputs.batches(inputs.forget, model.device))
        vectors = 3 if self.step == "calibrate" else 2
        memory = model_bytes(model) + vectors * vector_bytes(model) + max(backward, one.peak_memory_bytes)
        texts = self.steps * len(inputs.forget) + steps * one.gradient_evaluations
        walks = ", and forward passes to find each length" if self.step == "calibrate" else ""
        return MethodPlan(texts, memory, f"{steps} step{'s' if steps > 1 else ''}: {one.detail}{walks}")

    def forget_gradient(self, model: Any, batch: Sequence[Example], inputs: Inputs, outcome: Outcome) -> tuple[float, Vector]:
        """The mean loss of a batch of D- and its gradient."""
        outcome.gradient_evaluations += len(batch)
        return mean_gradient(model, inputs.batches(batch, model.device))

    def run(self, model: Any, inputs: Inputs) -> Outcome:
        outcome = Outcome(model)
        inputs, checked = self.split(inputs)
        target = self.target(model, inputs, checked)
        if target is not None and target.met_already(outcome):
            return outcome
        batches = inputs.forget_batches(self.forget_batch_size)
        total = self.steps * len(batches)
        for k in inputs.keeper.steps(total, outcome, inputs.passes, [Weights(model)]):
            batch = batches[k % len(batches)]
            if target is not None and self.focus:
                batch = target.remaining(model, batch)
            loss, g = self.forget_gradient(model, batch, inputs, outcome)
            d = self.direction(model, g, inputs, outcome)
            why = None
            if target is None:
                length = self.follow(model, d, inputs, outcome)
            else:
                goal = target.forget_before + (target.goal - target.forget_before) * (k + 1) / total
                length, reached, why = walk(model, d, goal, target)
                if why is not None or k + 1 == total:
                    target.note(outcome, reached, why)
            outcome.history.append(_entry(loss, g, d, length))
            if inputs.progress is not None:
                inputs.progress(k + 1, total, loss)
            if why is not None:
                break
        return outcome


def _move(model: Any, d: Vector, length: float) -> None:
    """A step that is not taken back, so that no copy of the parameters is needed (see `Start`)."""
    with torch.no_grad():
        for name, p in trainable(model).items():
            p.add_(d[name].to(p), alpha=length)


def _entry(loss: float, g: Vector, d: Vector, length: float) -> dict[str, float]:
    squared = dot(d, d)
    entry = {"forget_loss": loss, "step": length, "step_norm": length * squared**0.5}
    lengths = (squared * dot(g, g)) ** 0.5
    if lengths:
        entry["cosine_to_gradient"] = dot(d, g) / lengths
    return entry
