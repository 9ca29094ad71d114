r"""Negation of a task vector (Ilharco et al. 2023, arXiv 2212.04089): what training on D- changes, taken away.

    tau = theta_tuned - theta,      theta' = theta - scale tau        theta_tuned: a copy that was trained further on D- alone

The paper fits the one number, scale, on held-out data, to forget as much as another task allows; here "calibrate" finds the smallest
one at which the forget loss reaches its goal, within the limit on the retain loss. At 0 the model is the one that was given.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from unlearn_lib.curvature.gradient import trainable
from unlearn_lib.curvature.vector import Vector, norm
from unlearn_lib.data.batches import make_batches
from unlearn_lib.methods.base import Inputs, Outcome
from unlearn_lib.methods.plan import MethodPlan, backward_bytes, model_bytes, vector_bytes
from unlearn_lib.methods.target import Calibrated, Start, walk
from unlearn_lib.training.loop import TrainingConfig, fit


class TaskVector(Calibrated):
    """A step against what training on D- does.

    Options:
        scale: How much of the task vector is taken away, or "calibrate": as much as the forget loss needs (forward passes only).
        epochs: Passes over D- that the copy is trained for.
        learning_rate: Peak rate of AdamW; it falls linearly to zero.
        train_batch_size: Sequences in a batch of that training.
    """

    name: ClassVar[str] = "task-vector"
    source: ClassVar[str] = "Ilharco et al. 2023 (arXiv 2212.04089)"
    strength: ClassVar[str] = "scale"
    remedy: ClassVar[str] = "lower scale= or learning_rate="

    scale: float | Literal["calibrate"] = Field("calibrate", union_mode="left_to_right")
    epochs: float = Field(5, gt=0)
    learning_rate: float = Field(5e-5, gt=0)
    train_batch_size: int = Field(8, ge=1)

    @model_validator(mode="after")
    def _not_added(self) -> Self:
        if self.scale != "calibrate" and self.scale < 0:
            raise ValueError(f"scale is {self.scale}, which would add the task vector; it must be at least 0, or 'calibrate'")
        return self

    @property
    def calibrates(self) -> bool:
        return self.scale == "calibrate"

    def plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        backward = backward_bytes(model, make_batches(inputs.forget, self.train_batch_size, model.device))
        memory = 2 * model_bytes(model) + backward + 3 * vector_bytes(model)
        walk = ", and forward passes to find the scale" if self.calibrates else ""
        detail = f"{self.epochs:g} epochs over the forget texts with AdamW{walk}"
        return MethodPlan(self.epochs * len(inputs.forget), memory, detail)

    def run(self, model: Any, inputs: Inputs) -> Outcome:
        outcome = Outcome(model)
        inputs, checked = self.split(inputs)
        target = self.target(model, inputs, checked)
        if target is not None and target.met_already(outcome):
            return outcome
        away = self._away(model, inputs, outcome)
        if target is not None:
            length, reached, why = walk(model, away, target.goal, target)
            target.note(outcome, reached, why)
        else:
            length = float(self.scale)
            if length:  # adding zeros would turn -0 into 0
                Start(model).go(away, length)
        outcome.details |= {"scale": length, "step_norm": length * norm(away)}
        return outcome

    def _away(self, model: Any, inputs: Inputs, outcome: Outcome) -> Vector:
        """-tau, from a copy that is trained on D-; costs and losses go to `outcome`."""
        tuned = copy.deepcopy(model)
        config = TrainingConfig(self.epochs, self.learning_rate, self.train_batch_size)
        checkpoint = inputs.keeper.training()
        losses = fit(tuned, inputs.forget, config, seed=inputs.seed, progress=inputs.progress, checkpoint=checkpoint)
        outcome.history += [{"train_loss": loss} for loss in losses]
        outcome.gradient_evaluations += round(self.epochs * len(inputs.forget))
        after = trainable(tuned)
        return {name: p.detach() - after[name].detach() for name, p in trainable(model).items()}
