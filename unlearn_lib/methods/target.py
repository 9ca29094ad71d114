r"""How far to go: the forget loss to reach, and how much the retained texts may suffer on the way.

    goal          the original model's mean loss on held-out texts: what it says of texts it never saw (or a given loss)
    limit         rise of the retain loss + its standard error <= retain_limit * rise of the forget loss

Whether the limit holds is measured on retained texts that the method itself does not see: a step that was computed from a text
spares it, and does several times as much damage to retained texts of the same kind that it was not computed from. A quarter of D+
(of few texts up to half) is therefore held aside, drawn from the seed, and neither curvature nor retain term gets it. It is a
sample, so the standard error of its mean is added. Without a limit nothing is held aside; a method that takes nothing from D+ is
checked on D+ itself, without a standard error.

Everything here takes forward passes only.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from unlearn_lib.curvature.gradient import trainable
from unlearn_lib.curvature.vector import Vector, norm
from unlearn_lib.data.batches import Example
from unlearn_lib.data.examples import by_text
from unlearn_lib.data.overlap import without
from unlearn_lib.errors import InputError
from unlearn_lib.losses import Batch, evaluate
from unlearn_lib.methods.base import INCOMPLETE, Inputs, Method, Outcome

CHECKED = 256
"""Retained texts that are looked at, at most, to see whether the limit holds."""
ASIDE = 0.25
"""The share of the different retained texts that is held aside for it, where the method works with retained texts itself; or `LEAST` of
them, if that is more, but not more than half."""
LEAST = 16
FEWEST = 4
"""With fewer different retained texts none is held aside: the method works with all of them, and the limit is checked on them."""
EXACT = 0.01
"""The goal is met where the forget loss is within this share of the whole gap."""
ACCEPTED = 5
"""How many times that is still accepted where rounding stops the search earlier."""
FIRST_LENGTH, DOUBLINGS, HALVINGS = 1e-4, 24, 16
ROUNDING = 1e-6


class Calibrated(Method):
    """A method that can stop by itself.

    Options:
        retain_limit: When calibrating, the retain loss may rise by at most this times the rise of the forget loss; None for no
            limit. It is measured on a quarter of the retained texts (at least 16 or half of them, at most 256), which are held aside
            for that, and holds with the standard error of so small a sample added.
        target_loss: When calibrating, the forget loss to reach; None for the mean loss of held-out texts.
    """

    retain_limit: float | None = Field(0.2, gt=0)
    target_loss: float | None = Field(None, gt=0)

    @property
    @abstractmethod
    def calibrates(self) -> bool:
        """Whether these options ask for it."""

    def required(self) -> tuple[str, ...]:
        if not self.calibrates:
            return self.needs
        more = [*(["holdout"] if self.target_loss is None else []), *(["retain"] if self.retain_limit is not None else [])]
        return tuple(dict.fromkeys([*self.needs, *more]))

    @property
    def uses_retain(self) -> bool:
        """Whether the steps are computed from texts of D+."""
        return "retain" in self.needs

    def split(self, inputs: Inputs) -> tuple[Inputs, list[Example]]:
        """`(inputs that the steps may be computed from, retained texts that the limit is checked on)`.

        The two have no retained text in common, exact copies included, unless there are fewer than `FEWEST` different ones. A method
        that takes nothing from D+ is checked on all of it (at most `CHECKED`); without a limit there is nothing to check.
        """
        if not self.calibrates or self.retain_limit is None:
            return inputs, []
        different = list(dict.fromkeys(inputs.retain))
        groups = by_text(different)  # the pieces of a long text are held aside together
        if not self.uses_retain or len(groups) < FEWEST:
            return inputs, inputs.some_retain(CHECKED)
        generator = torch.Generator().manual_seed(inputs.seed)
        count = min(CHECKED, max(int(ASIDE * len(groups)), min(LEAST, len(groups) // 2)))
        drawn = sorted(torch.randperm(len(groups), generator=generator)[:count].tolist())
        checked = [different[i] for group in drawn for i in groups[group]]
        return replace(inputs, retain=without(inputs.retain, checked)), checked

    def target(self, model: Any, inputs: Inputs, checked: Sequence[Example]) -> Target | None:
        """The goal and the limit, measured on the original model; None where nothing is calibrated. Arguments: what `split` gives."""
        if not self.calibrates:
            return None
        return Target(model, inputs, self.target_loss, self.retain_limit, checked, self.uses_retain)


class Target:
    """The goal, the limit, and the losses before the first step.

    `checked` are the retained texts that the limit is measured on; `uses_retain` says that the steps are computed from `inputs.retain`.
    """

    def __init__(
        self,
        model: Any,
        inputs: Inputs,
        goal: float | None,
        retain_limit: float | None,
        checked: Sequence[Example],
        uses_retain: bool,
    ) -> None:
        if not inputs.holdout and goal is None:
            raise InputError("calibrating needs holdout=..., or target_loss=... for a forget loss to reach")
        self._passes = inputs.passes
        self._forget = inputs.batches(inputs.forget, model.device)
        self._retain = inputs.batches(checked, model.device)
        shared = not set(checked).isdisjoint(inputs.retain)
        self._checked, self._sample, self._seen = len(checked), not shared, shared and uses_retain
        self.retain_limit = retain_limit if self._retain else None
        self.forget_before = self._losses(model, self._forget).mean().item()
        if self.retain_limit is not None:
            self._before_N = self._losses(model, self._retain)
            self.retain_before = self._before_N.mean().item()
        if goal is None:
            goal = self._losses(model, inputs.batches(inputs.holdout, model.device)).mean().item()
        self.goal = goal
        self.tolerance = EXACT * (self.goal - self.forget_before)

    def _losses(self, model: Any, batches: list[Batch]) -> Tensor:
        """`[n]`, in float64; the passes are counted."""
        losses_N = evaluate(model, batches).double()
        self._passes.forward += len(losses_N)
        return losses_N

    def met_already(self, outcome: Outcome) -> bool:
        """Whether the forget loss is at the goal before any step; if so, with a warning."""
        if self.goal > self.forget_before:
            return False
        outcome.warnings.append(
            f"nothing was done: the forget loss, {self.forget_before:.3f}, is at its goal of {self.goal:.3f} already"
        )
        return True

    def forget_loss(self, model: Any) -> float:
        """The mean loss on D-; one that is not finite counts as infinite."""
        loss = self._losses(model, self._forget).mean().item()
        return loss if math.isfinite(loss) else math.inf

    def remaining(self, model: Any, batch: Sequence[Example]) -> list[Example]:
        """Those of D- whose own loss is below the goal; all of them where there is none."""
        losses = self._losses(model, self._forget).tolist()
        return [example for example, loss in zip(batch, losses, strict=True) if loss < self.goal] or list(batch)

    def within_limit(self, model: Any, forget_loss: float) -> bool:
        """Whether the retained texts have suffered no more than allowed, to rounding: a step may be too short to be seen."""
        if self.retain_limit is None:
            return True
        rise, error = self._rise(model)
        forgotten = max(0.0, forget_loss - self.forget_before)  # a step that lowers both losses is within every limit
        return rise + error <= self.retain_limit * forgotten + ROUNDING * self.retain_before

    def _rise(self, model: Any) -> tuple[float, float]:
        """By how much the mean loss of the checked texts has risen, and the standard error that is added to it."""
        after_N = self._losses(model, self._retain)
        spread = (after_N - self._before_N).std().item() if self._sample else 0.0
        return after_N.mean().item() - self.retain_before, spread / math.sqrt(len(after_N))

    @property
    def binding(self) -> str:
        """Why a method stopped that the limit held back."""
        return f"the limit on the retain loss ({self.retain_limit:g} times the rise of the forget loss) binds"

    def note(self, outcome: Outcome, forget_loss: float, why: str | None) -> None:
        """Write down where the method stopped, what the checked retained texts suffered, and the warning if it stopped short (`why`)."""
        outcome.details |= {
            "goal": self.goal,
            "reached": forget_loss,
            "retain_limit": self.retain_limit,
            "checked": self._checked,
        }
        if self.retain_limit is not None:
            rise, error = self._rise(outcome.model)
            loss = {"before": self.retain_before, "after": self.retain_before + rise, "standard_error": error}
            outcome.details["checked_loss"] = loss
        if self._seen:
            outcome.warnings.append(
                f"the limit on the retain loss was checked on the {self._checked} retain texts that the step was computed from, because "
                f"fewer than {FEWEST} different ones are too few to hold some aside; others may suffer several times as much"
            )
        if why is not None:
            share = 100 * (forget_loss - self.forget_before) / (self.goal - self.forget_before)
            outcome.warnings.append(
                f"{INCOMPLETE}: {why}; the forget loss is {forget_loss:.3f}, {share:.0f} % of the way from {self.forget_before:.3f} "
                f"to {self.goal:.3f}"
            )


class Start:
    """The trained parameters of a model as they are now: the place that steps go from, and come back to. Memory: a copy of them."""

    def __init__(self, model: Any) -> None:
        self.model, self.params = model, trainable(model)
        self.values: Vector = {name: p.detach().clone() for name, p in self.params.items()}

    @torch.no_grad()
    def go(self, direction: Vector, length: float) -> None:
        """Put the model at start + length * direction."""
        for name, p in self.params.items():
            torch.add(self.values[name], direction[name].to(p), alpha=length, out=p)

    @torch.no_grad()
    def back(self) -> None:
        """Put the model back, to the last bit."""
        for name, p in self.params.items():
            p.copy_(self.values[name])

    def moved(self) -> Vector:
        """By how much the model has moved."""
        return {name: p.detach() - self.values[name] for name, p in self.params.items()}


def along(start: Start, direction: Vector, target: Target) -> Callable[[float], float]:
    """The forget loss at a length along a direction; the model stays there."""

    def loss_at(length: float) -> float:
        start.go(direction, length)
        return target.forget_loss(start.model)

    return loss_at


def walk(model: Any, direction: Vector, goal: float, target: Target) -> tuple[float, float, str | None]:
    """Move the model along a direction to the first length at which the forget loss reaches `goal`, or to the limit.

    Args:
        model: Changed in place.
        direction: A vector on its trainable parameters.
        goal: The forget loss to reach in this step.
        target: What counts as reached, and the limit.

    Returns:
        `(length, forget loss, why it stopped short or None)`; length as a multiple of the direction.
    """
    start, size = Start(model), norm(direction)
    if size == 0:
        return 0.0, target.forget_loss(model), "the direction is zero"

    loss_at = along(start, direction, target)
    # the first crossing lies between two lengths
    low, length, why = 0.0, FIRST_LENGTH * norm(start.values) / size, None
    loss, best = loss_at(length), (target.forget_before, 0.0)
    for _ in range(DOUBLINGS):
        if loss >= goal:
            break
        best = max(best, (loss, length))
        low, length = length, 2 * length
        loss = loss_at(length)
    else:
        length, why = best[1], "the forget loss does not reach the goal along this direction"
        loss = loss_at(length)
    high = length
    for _ in range(HALVINGS):
        if why is not None or abs(loss - goal) <= target.tolerance:
            break
        low, high = (length, high) if loss < goal else (low, length)
        length = (low + high) / 2
        loss = loss_at(length)
    if why is None and not abs(loss - goal) <= ACCEPTED * target.tolerance:
        length, why = low, "the forget loss jumps over the goal along this direction"
        loss = loss_at(length)
    if target.within_limit(model, loss):
        return length, loss, why
    low, high = 0.0, length
    for _ in range(HALVINGS):
        length = (low + high) / 2
        loss = loss_at(length)
        low, high = (length, high) if target.within_limit(model, loss) else (low, length)
    return low, loss_at(low), target.binding
