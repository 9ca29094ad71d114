r"""First-order methods: an optimiser on a loss of forget and retain batches, for some passes over D- or until a goal is reached.

With `stop="calibrate"` the parameters after the step that crosses the goal are moved back along that step to the first point
where the mean forget loss reaches it, so that methods can be compared at the same forgetting.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from unlearn_lib.curvature import trainable
from unlearn_lib.curvature.vector import Vector, dot
from unlearn_lib.data.batches import Example, collate
from unlearn_lib.errors import NumericsError
from unlearn_lib.losses import Batch, sequence_losses
from unlearn_lib.methods.base import Inputs, Outcome
from unlearn_lib.methods.original import original_of
from unlearn_lib.methods.plan import MethodPlan, joint_backward_bytes, largest, model_bytes, vector_bytes
from unlearn_lib.methods.resume import Optimised, Weights
from unlearn_lib.methods.target import ACCEPTED, Calibrated, Start, Target, walk
from unlearn_lib.metrics.divergence import log_probs, sequence_divergences
from unlearn_lib.ranks import add_gradients, text_by_text

ADAM_BETAS = (0.9, 0.98)  # Jang et al. 2023


@dataclass
class Step:
    """What a loss may look at: the batches of this step, the frozen original model where it is needed, and the seed of the run."""

    forget: Batch
    retain: Batch | None
    original: Any
    seed: int = 0


class DescentMethod(Calibrated):
    """A first-order method.

    Options:
        epochs: Passes over D-; with stop="calibrate" the most that are made.
        optimizer: "adamw" (no weight decay), "adam" (betas 0.9, 0.98, as Jang et al.) or "sgd" (no momentum).
        forget_batch_size: Sequences of D- in a step; None for all of them.
        retain_batch_size: Sequences of D+ in a step, where the loss has a retain term.
        stop: "epochs", or "calibrate": at the goal (needs holdout, or target_loss).
    """

    strength: ClassVar[str] = "epochs"

    epochs: int = Field(5, ge=1)
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    forget_batch_size: int | None = Field(8, ge=1)
    retain_batch_size: int = Field(8, ge=1)
    stop: Literal["epochs", "calibrate"] = "epochs"

    @property
    def calibrates(self) -> bool:
        return self.stop == "calibrate"

    @property
    def uses_original(self) -> bool:
        """Whether the loss looks at the original model."""
        return False

    def looked_up(self, forget: int, retain: int) -> int:
        """Of how many texts a step takes the original model's predictions."""
        return 0

    def looks_at(self, model: Any, inputs: Inputs) -> Callable[[Sequence[Example], int], Sequence[Example]]:
        """What gives, from the texts to forget in a step and the step's number, the texts that its loss is taken on: the same ones,
        unless a method sets others beside them."""
        return lambda texts, step: texts

    @property
    @abstractmethod
    def rate(self) -> float:
        """The optimiser's learning rate."""

    def prepare(self, model: Any, inputs: Inputs, outcome: Outcome) -> None:
        """Measure what the loss or `finished` needs of the original model, before the first step."""

    @abstractmethod
    def loss(self, model: Any, step: Step) -> Tensor:
        """The scalar that the optimiser lowers."""

    def before_step(
        self, model: Any, optimizer: torch.optim.Optimizer, pieces: Sequence[Step], inputs: Inputs, outcome: Outcome
    ) -> None:
        """Called before every step, when the gradient is there, for what an optimiser needs beside it. Costs go to `outcome`."""

    def observed(self, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """What the history says of a step beside its loss and its length."""
        return {}

    def done_already(self, model: Any, inputs: Inputs, outcome: Outcome) -> bool:
        """Asked before the first step: whether there is nothing to do; then with a warning."""
        return False

    def finished(self, model: Any, inputs: Inputs, outcome: Outcome) -> bool:
        """Asked after every pass over D-: whether to stop early."""
        return False

    def make_optimizer(self, params: Vector) -> torch.optim.Optimizer:
        """The optimiser on these parameters."""
        if self.optimizer == "sgd":
            return torch.optim.SGD(params.values(), lr=self.rate)
        if self.optimizer == "adam":
            return torch.optim.Adam(params.values(), lr=self.rate, betas=ADAM_BETAS)
        return torch.optim.AdamW(params.values(), lr=self.rate, weight_decay=0.0)

    @property
    def vectors(self) -> int:
        """How many vectors of the parameters are there at a step: where it starts, the gradient, and the optimiser's own."""
        return {"sgd": 2, "adam": 4, "adamw": 4}[self.optimizer]

    def plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        inputs, _ = self.split(inputs)
        steps = self.epochs * len(inputs.forget_batches(self.forget_batch_size))
        texts = self.epochs * sum(len(batch["labels"]) for batch in self._looked_at(model, inputs))
        if self.uses_retain:
            texts += steps * min(self.retain_batch_size, len(inputs.retain))
        graphs = joint_backward_bytes(model, self.largest_step(model, inputs))
        copies = 2 if self.uses_original else 1
        memory = copies * model_bytes(model) + graphs + self.vectors * vector_bytes(model)
        return MethodPlan(texts, memory, f"{steps} steps with {self.optimizer}")

    def largest_step(self, model: Any, inputs: Inputs) -> list[Batch]:
        """The largest batch of D- that goes through the model at a time, and of D+ where the loss has a retain term."""
        found = [largest(self._looked_at(model, inputs))]
        if self.uses_retain:
            size = min(self.retain_batch_size, len(inputs.retain))
            longest = sorted(inputs.retain, key=lambda example: -len(example.input_ids))[:size]
            found.append(collate(longest, model.device))
        return found

    def _looked_at(self, model: Any, inputs: Inputs) -> list[Batch]:
        """What of D- goes through the model in a pass over it, a batch for each part of a step."""
        look = self.looks_at(model, inputs)
        return [
            collate(look(piece, number), model.device)
            for number, batch in enumerate(inputs.forget_batches(self.forget_batch_size))
            for piece in self._pieces(batch, inputs)
        ]

    def run(self, model: Any, inputs: Inputs) -> Outcome:
        outcome = Outcome(model)
        inputs, checked = self.split(inputs)
        target = self.target(model, inputs, checked)
        if target is not None and target.met_already(outcome):
            return outcome
        original = original_of(model) if self.uses_original else None
        self.prepare(model, inputs, outcome)
        if self.done_already(model, inputs, outcome):
            return outcome
        optimizer = self.make_optimizer(trainable(model))
        batches, look = inputs.forget_batches(self.forget_batch_size), self.looks_at(model, inputs)
        steps = self.epochs * len(batches)
        for number in inputs.keeper.steps(steps, outcome, inputs.passes, [Weights(model), Optimised(optimizer)]):
            batch = batches[number % len(batches)]
            kept = self._retain_batch(inputs, number, model.device) if self.uses_retain else None
            pieces = [
                Step(collate(look(piece, number), model.device), kept, original, inputs.seed)
                for piece in self._pieces(batch, inputs)
            ]
            start = Start(model)
            loss = self._gradient(model, optimizer, pieces)
            self.before_step(model, optimizer, pieces, inputs, outcome)
            optimizer.step()
            moved = start.moved()
            forget, held = sum(len(step.forget["labels"]) for step in pieces), len(kept["labels"]) if kept is not None else 0
            outcome.gradient_evaluations += forget + held
            inputs.passes.forward += self.looked_up(forget, held)
            outcome.history.append({"loss": loss, "step_norm": dot(moved, moved) ** 0.5, **self.observed(optimizer)})
            if inputs.progress is not None:
                inputs.progress(number + 1, steps, loss)
            if target is not None and self._crossed(model, start, moved, target, outcome):
                return outcome
            if (number + 1) % len(batches) == 0 and self.finished(model, inputs, outcome):
                return outcome
        if target is not None:
            target.note(outcome, target.forget_loss(model), f"{steps} steps did not reach the goal")
        return outcome

    def _pieces(self, batch: list[Example], inputs: Inputs) -> list[Sequence[Example]]:
        """The texts of one step in parts that go through the model at a time; a loss with a retain term is taken in one."""
        return [batch] if self.uses_retain else list(inputs.grouping.groups(batch))

    def _gradient(self, model: Any, optimizer: torch.optim.Optimizer, pieces: list[Step]) -> float:
        """Give the optimiser the gradient of the loss over all pieces, a mean over their texts; returns that loss."""
        optimizer.zero_grad()
        texts, total = sum(len(step.forget["labels"]) for step in pieces), 0.0
        for step in pieces:
            loss = len(step.forget["labels"]) / texts * self.loss(model, step)
            if not torch.isfinite(loss):
                raise NumericsError(f"the loss of {self.name} became {loss.item()}; lower the learning rate ({self.rate:g})")
            loss.backward()
            total += loss.item()
        add_gradients(trainable(model).values())
        return total

    def _crossed(self, model: Any, start: Start, moved: Vector, target: Target, outcome: Outcome) -> bool:
        reached = target.forget_loss(model)
        if reached < target.goal and target.within_limit(model, reached):
            return False
        start.back()
        if reached < target.goal and reached <= (here := target.forget_loss(model)):
            target.note(outcome, here, target.binding)  # a step over the limit that does not forget
            return True
        _, reached, why = walk(model, moved, min(reached, target.goal), target)
        if why is None and reached < target.goal - ACCEPTED * target.tolerance:
            why = target.binding  # the whole step was over the limit, and it did not lead to the goal
        target.note(outcome, reached, why)
        return True

    def _retain_batch(self, inputs: Inputs, number: int, device: torch.device) -> Batch:
        """What of D+ goes into a step: the next ones of a pass over D+, and every pass is in a new order drawn from the seed."""
        size = min(self.retain_batch_size, len(inputs.retain))
        passes, place = divmod(number, len(inputs.retain) // size)
        generator = torch.Generator().manual_seed(inputs.seed)
        orders = [torch.randperm(len(inputs.retain), generator=generator) for _ in range(passes + 1)]
        return collate([inputs.retain[i] for i in orders[-1][place * size : (place + 1) * size].tolist()], device)


class RetainTerm(DescentMethod):
    """What gradient-difference, NPO and others share: a term that holds on to D+.

    A method whose `needs` do not name D+ takes it where `retain_weight` is not 0, and then requires it.

    Options:
        learning_rate: The learning rate of the optimiser.
        forget_weight: The factor of the term that forgets, gamma.
        retain_weight: The factor of the term that holds on to D+, alpha.
        retain_loss: "nll" (go on training on D+) or "kl" (keep the original's predictions on D+).
    """

    needs: ClassVar[tuple[str, ...]] = ("retain",)
    remedy: ClassVar[str] = "lower learning_rate="

    learning_rate: float = Field(1e-5, gt=0)
    forget_weight: float = Field(1.0, gt=0)
    retain_weight: float = Field(1.0, ge=0)
    retain_loss: Literal["nll", "kl"] = "nll"

    @property
    def rate(self) -> float:
        return self.learning_rate

    @property
    def uses_retain(self) -> bool:
        return "retain" in self.needs or self.retain_weight > 0

    def required(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*(["retain"] if self.uses_retain else []), *super().required()]))

    @property
    def forgets_by_original(self) -> bool:
        """Whether the term that forgets looks at the original model's predictions."""
        return False

    @property
    def uses_original(self) -> bool:
        return self.forgets_by_original or self.retain_loss != "nll"

    def looked_up(self, forget: int, retain: int) -> int:
        return (forget if self.forgets_by_original else 0) + (retain if self.retain_loss != "nll" else 0)

    @abstractmethod
    def forget_loss(self, model: Any, step: Step) -> Tensor:
        """The term that forgets."""

    def loss(self, model: Any, step: Step) -> Tensor:
        loss = self.forget_weight * self.forget_loss(model, step)
        return loss if step.retain is None else loss + self.retain_weight * self.kept(model, step.retain, step.original)

    def kept(self, model: Any, retain: Batch, original: Any) -> Tensor:
        """The term that holds on to D+."""
        if self.retain_loss == "nll":
            return sequence_losses(model, retain).mean()

        def divergences(batch: Batch) -> Tensor:
            with torch.no_grad():
                before = log_probs(original, batch)
            return sequence_divergences(before, log_probs(model, batch), batch)

        return text_by_text(divergences, retain).mean()
