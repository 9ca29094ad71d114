r"""Relearning as an attack: fine-tune the unlearned model for a few steps and see how fast the forgotten texts come back.

What it is trained on may be a few of the forget texts, where the others are measured (`few`; Hu et al. 2024, arXiv 2406.13356), or
texts that are related to them or have nothing to do with them (Lynch et al. 2024, arXiv 2402.16835). Trained on the forget texts
themselves, the steps to the original's loss are the relearn time of Golatkar et al. 2019 (arXiv 1911.04933).

The control is the same call on a model that never saw the texts (a retrained one), with the same texts, settings and seed. Only what
comes back faster than there was still in the model: compare `control.steps_to(attacked.goal(0.5))` with
`attacked.steps_to_recover(0.5)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from unlearn_lib.attacks.copies import working_copy
from unlearn_lib.attacks.knowledge import Knowledge, knowledge
from unlearn_lib.attacks.recovered import Recovered, compared
from unlearn_lib.data.batches import Example
from unlearn_lib.data.examples import by_text
from unlearn_lib.data.overlap import without
from unlearn_lib.errors import InputError
from unlearn_lib.training.config import TrainingConfig
from unlearn_lib.training.loop import fit

STEPS = (1, 2, 5, 10, 20, 50)


@dataclass(frozen=True)
class Relearned(Recovered):
    """What training brought back; `after` is the loss after the last step.

    Attributes:
        curve: (steps, mean loss of the measured texts in nats), from (0, before) on.
    """

    curve: tuple[tuple[int, float], ...] = ()

    def goal(self, share: float = 0.5) -> float | None:
        """The loss that is this share of the way back, before - share (before - known), in nats; None where there is no way back (see
        `share`).

        Raises:
            InputError: A share outside (0, 1].
        """
        if not 0 < share <= 1:
            raise InputError(f"share is a part of the way back to the original's loss, above 0 and at most 1; got {share}")
        if self.known is None or not self.before > self.known:
            return None
        return self.before - share * (self.before - self.known)

    def steps_to(self, loss: float | None) -> int | None:
        """The first number of steps on the curve after which the loss is at or below this one; None where it never is, or where the
        loss is None."""
        return None if loss is None else next((step for step, reached in self.curve if reached <= loss), None)

    def steps_to_recover(self, share: float = 0.5) -> int | None:
        """The first number of steps on the curve after which this share of the way back is gone; None where it is not reached, or
        where there is no way back. It is as exact as the curve's steps are close."""
        return self.steps_to(self.goal(share))


def few(examples: Sequence[Example], number: int, seed: int = 0) -> tuple[list[Example], list[Example]]:
    """Choose some of the forget texts to relearn on: `(the sequences of those texts, the sequences of all others)`, each in order.

    Args:
        examples: The forget texts; all pieces of a long text go to the same side.
        number: How many texts are chosen, at least one, so that at least one is left.
        seed: Of the choice.

    Raises:
        InputError: A number out of range.
    """
    groups = by_text(examples)
    if not 0 < number < len(groups):
        raise InputError(
            f"of {len(groups)} forget texts {number} cannot be relearned while others are measured; choose 1 to {len(groups) - 1}"
        )
    chosen = set(torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed))[:number].tolist())
    sides: tuple[list[Example], list[Example]] = ([], [])
    for text, group in enumerate(groups):
        sides[text not in chosen].extend(examples[i] for i in group)
    return sides


def relearning(
    model: Any,
    relearn_on: Sequence[Example],
    measured: Sequence[Example],
    *,
    steps: Sequence[int] = STEPS,
    learning_rate: float = 5e-5,
    train_batch_size: int = 8,
    seed: int = 0,
    known: float | None = None,
    unseen: float | None = None,
    batch_size: int = 32,
) -> Relearned:
    """Train a copy of the model and look at the measured texts on the way.

    It is one training of max(steps) steps with `fit`: AdamW without weight decay, whose learning rate falls linearly to zero at
    the end. So a curve depends on its last step, and curves are compared where they have the same. A model in bfloat16 or float16
    is trained and looked at in float32. What is trained is what requires a gradient.

    Args:
        model: The unlearned model, or for the control one that never saw the texts; it is left as it is.
        relearn_on: The sequences to train on.
        measured: The forget texts whose loss is measured. How many of its sequences are trained on, too, is told by
            `setting["trained_on"]`.
        steps: The numbers of steps after which to look, increasing.
        learning_rate: At the first step.
        train_batch_size: Sequences in a step; all of `relearn_on` where there are fewer.
        seed: Of the order of the texts and of dropout; the result is the same for the same seed.
        known, unseen: The measured texts' mean loss in the original and in a retrained model, as they are; see `Recovered`.
        batch_size: Sequences in a forward pass of a measurement; it changes no result.

    Raises:
        InputError: No texts; steps that are not increasing numbers from 1 on; a learning rate or batch size that is not positive;
            nothing that can be trained.
        NumericsError: The training has diverged.

    Cost: max(steps) * train_batch_size gradients, len(steps) + 1 forward passes over the measured texts, the memory of a training.
    """
    _check(steps, learning_rate, train_batch_size)
    if not relearn_on:
        raise InputError("there is nothing to relearn on: the set is empty; give at least one text")
    before = knowledge(model, measured, batch_size=batch_size)
    found: list[Knowledge] = []
    own, size = working_copy(model), min(train_batch_size, len(relearn_on))
    curve: list[tuple[int, float]] = [(0, before.loss)]

    def look(step: int, *_: float) -> None:
        if step in steps:
            found.append(knowledge(own, measured, batch_size=batch_size))
            curve.append((step, found[-1].loss))

    epochs = steps[-1] * size / len(relearn_on)
    fit(own, relearn_on, TrainingConfig(epochs, learning_rate, size), seed=seed, progress=look)
    setting = {
        "texts": len(by_text(relearn_on)),
        "steps": steps[-1],
        "learning_rate": learning_rate,
        "train_batch_size": size,
        "seed": seed,
        "trained_on": len(measured) - len(without(measured, relearn_on)),
    }
    return Relearned("relearning", setting, **compared(before, found[-1]), known=known, unseen=unseen, curve=tuple(curve))


def _check(steps: Sequence[int], learning_rate: float, train_batch_size: int) -> None:
    if not steps or steps[0] < 1 or any(one >= other for one, other in pairwise(steps)):
        raise InputError(f"steps are the numbers of steps after which to look, at least one, increasing from 1 on; got {steps}")
    if not learning_rate > 0 or train_batch_size < 1:
        raise InputError(
            f"learning_rate must be positive and train_batch_size at least 1; got {learning_rate} and {train_batch_size}"
        )
