"""Retraining and fine-tuning: the gold standard, and the cheapest baseline."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from unlearn_lib.data.batches import make_batches
from unlearn_lib.methods.base import Inputs, Method, Outcome
from unlearn_lib.methods.plan import MethodPlan, backward_bytes, model_bytes, vector_bytes
from unlearn_lib.training.loop import TrainingConfig, fit


class _Training(Method):
    """A method that trains on D+.

    Options:
        learning_rate: Peak rate of AdamW; it falls linearly to zero (paper: 5e-5).
        train_batch_size: Sequences in a batch (paper: not stated).
    """

    strength: ClassVar[str] = "epochs"
    remedy: ClassVar[str] = "lower learning_rate="

    learning_rate: float = Field(5e-5, gt=0)
    epochs: float = Field(5, gt=0)
    train_batch_size: int = Field(8, ge=1)

    def plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        batches = make_batches(inputs.retain, self.train_batch_size, model.device)
        memory = model_bytes(model) + backward_bytes(model, batches) + 3 * vector_bytes(model)
        return MethodPlan(self.epochs * len(inputs.retain), memory, f"{self.epochs:g} epochs with AdamW")

    def _train(self, model: Any, inputs: Inputs) -> Outcome:
        config = TrainingConfig(self.epochs, self.learning_rate, self.train_batch_size)
        losses = fit(
            model, inputs.retain, config, seed=inputs.seed, progress=inputs.progress, checkpoint=inputs.keeper.training()
        )
        return Outcome(model, [{"train_loss": loss} for loss in losses], round(self.epochs * len(inputs.retain)))


class Retrain(_Training):
    """Discard the model and train the base checkpoint on D+ from the start: exact unlearning.

    Options:
        epochs: Passes over D+ (paper: 5).
    """

    name: ClassVar[str] = "retrain"
    needs: ClassVar[tuple[str, ...]] = ("retain", "base")
    source: ClassVar[str] = "section 5 of arXiv 2403.10557"
    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"epochs": 5, "learning_rate": 5e-5}}

    def run(self, model: Any, inputs: Inputs) -> Outcome:
        assert inputs.base is not None
        return self._train(inputs.base().to(model.device), inputs)


class Finetune(_Training):
    """Go on training the current model on D+ and hope that it forgets the rest.

    Options:
        epochs: Passes over D+ (paper: 1).
    """

    name: ClassVar[str] = "finetune"
    needs: ClassVar[tuple[str, ...]] = ("retain",)
    source: ClassVar[str] = "section 5 of arXiv 2403.10557"
    presets: ClassVar[dict[str, dict[str, Any]]] = {"paper": {"epochs": 1, "learning_rate": 5e-5}}

    epochs: float = Field(1, gt=0)

    def run(self, model: Any, inputs: Inputs) -> Outcome:
        return self._train(model, inputs)
