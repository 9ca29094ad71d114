"""Where a method is in its steps, kept on disk, so that a run that was killed goes on from there, to the same weights.

After a step everything that the next one depends on is written to one safetensors file: the trained parameters, the state of an
optimiser or of running means, and, as JSON in the file's header, what the outcome holds so far. What a step draws depends on its
number alone, so that no generator's state is needed. What a method does before its first step is done again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from unlearn_lib.checkpoints import Checkpoint, optimizer_state, put_optimizer_state, same_everywhere
from unlearn_lib.curvature.gradient import trainable
from unlearn_lib.errors import InputError, wrong_in
from unlearn_lib.files import new_file
from unlearn_lib.ranks import ranks
from unlearn_lib.shards import on_first, part

if TYPE_CHECKING:
    from unlearn_lib.methods.base import Outcome, Passes

SECONDS_BETWEEN = 60.0
"""From one writing to the next, because writing a large model takes as long as a step on a few texts."""
State = dict[str, Any]
"""Tensors, numbers, and lists and dicts of them, by name."""


class Part(Protocol):
    """Something that changes from step to step."""

    def state(self) -> State:
        """All that its next step depends on."""

    def put(self, state: State) -> None:
        """Be again what gave this state."""


class Weights:
    """The trained parameters of a model."""

    def __init__(self, model: Any) -> None:
        self.params = trainable(model)

    def state(self) -> State:
        return {name: p.detach() for name, p in self.params.items()}

    @torch.no_grad()
    def put(self, state: State) -> None:
        for name, p in self.params.items():
            p.copy_(state[name])


class Optimised:
    """The state of an optimiser."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def state(self) -> State:
        return optimizer_state(self.optimizer)

    def put(self, state: State) -> None:
        put_optimizer_state(self.optimizer, state)


@dataclass(frozen=True)
class Named:
    """Some attributes of an object: numbers, tuples of them, or vectors."""

    of: Any
    names: tuple[str, ...]

    def state(self) -> State:
        return {name: getattr(self.of, name) for name in self.names}

    def put(self, state: State) -> None:
        for name in self.names:
            value = state[name]
            setattr(self.of, name, tuple(value) if isinstance(value, list) else value)


class Header(BaseModel):
    """What the header of a file says: how many steps are `done`, the `outcome` so far, and the numbers of the parts' states."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    done: int
    outcome: dict[str, Any]
    numbers: list[dict[str, Any]]


@dataclass
class Keeper:
    """Keeps the steps of one run of a method in a folder; without one it keeps nothing.

    Where the folder cannot be written, the run goes on without, and says so in a warning.

    Attributes:
        folder: Where the file is, or will be.
        key: What the run depends on, as letters and digits. The file is named by it, so that no other run uses it.
    """

    folder: Path | None = None
    key: str = ""
    _written: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> Path | None:
        """The file."""
        return self.folder and self.folder / f"steps-{self.key[:16]}.safetensors"

    def training(self) -> Checkpoint:
        """Where a method that is a training keeps it."""
        return Checkpoint(self.folder and self.folder / f"training-{self.key[:16]}.safetensors", self.key)

    def steps(self, total: int, outcome: Outcome, passes: Passes, parts: Sequence[Part]) -> Iterator[int]:
        """The numbers of the steps that are left, of `total`, from 0; before the first of them, parts, outcome and passes are put where
        the run that was interrupted had them.

        Raises:
            InputError: The file is none of these.
        """
        first = same_everywhere(self._restore(outcome, passes, parts), self.path)
        for k in range(first, total):
            yield k
            due = self.folder is not None and k + 1 < total and time.monotonic() - self._written >= SECONDS_BETWEEN
            if ranks().told(due)[0] if ranks().sharded else due and ranks().first:
                self._try_to_keep(k + 1, outcome, passes, parts)

    def _try_to_keep(self, done: int, outcome: Outcome, passes: Passes, parts: Sequence[Part]) -> None:
        try:
            self._keep(done, outcome, passes, parts)
        except OSError as error:
            outcome.warnings.append(
                f"the steps could not be kept in {self.folder} ({error}), so that an interrupted run would start anew"
            )
            self.folder = None

    def _keep(self, done: int, outcome: Outcome, passes: Passes, parts: Sequence[Part]) -> None:
        from safetensors.torch import save_file

        tensors: dict[str, Tensor] = {}
        numbers = [_taken_apart(one.state(), f"{number}", tensors) for number, one in enumerate(parts)]
        tensors = {name: on_first(t).contiguous() for name, t in tensors.items()}
        if not ranks().first:
            return
        assert self.path is not None
        said = {
            "history": outcome.history,
            "gradient_evaluations": outcome.gradient_evaluations,
            "details": outcome.details,
            "warnings": outcome.warnings,
            "forward": passes.forward,
        }
        header = Header(done=done, outcome=said, numbers=numbers)
        with new_file(self.path, private=True) as temporary:
            save_file(tensors, temporary, {"steps": json.dumps(header.model_dump())})
        self._written = time.monotonic()

    def _restore(self, outcome: Outcome, passes: Passes, parts: Sequence[Part]) -> int:
        header = None if self.path is None or not self.path.exists() else _header(self.path)
        if header is None:
            return 0
        from safetensors.torch import load_file

        assert self.path is not None
        tensors = load_file(self.path)
        # what has a weight's shape is divided as the weight is
        shapes = {p.shape: p for one in parts if isinstance(one, Weights) for p in one.params.values()}
        tensors = {name: part(t, shapes[t.shape]) if t.shape in shapes else t for name, t in tensors.items()}
        for number, (one, own) in enumerate(zip(parts, header.numbers, strict=True)):
            one.put(_put_together(own, f"{number}", tensors))
        said = header.outcome
        outcome.history[:] = said["history"]
        outcome.gradient_evaluations = said["gradient_evaluations"]
        outcome.details |= said["details"]
        outcome.warnings[:] = said["warnings"]
        passes.forward = said["forward"]
        return header.done


def _taken_apart(state: State, prefix: str, tensors: dict[str, Tensor]) -> State:
    """The state without its tensors, which go to `tensors` under names that begin with the prefix."""
    numbers: State = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}/{name}"] = value
        else:
            numbers[name] = _taken_apart(value, f"{prefix}/{name}", tensors) if isinstance(value, dict) else value
    return numbers


def _put_together(numbers: State, prefix: str, tensors: dict[str, Tensor]) -> State:
    """What `_taken_apart` took apart."""
    found: State = {}
    for name, value in numbers.items():
        found[name] = _put_together(value, f"{prefix}/{name}", tensors) if isinstance(value, dict) else value
    for name, tensor in tensors.items():
        start, _, own = name.rpartition("/")
        if start == prefix:
            found[own] = tensor
    return found


def _header(path: Path) -> Header:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return Header.model_validate(json.loads(metadata.get("steps", "null")))
    except (SafetensorError, ValidationError) as error:
        why = wrong_in(error) if isinstance(error, ValidationError) else str(error)
        raise InputError(f"{path} does not hold the steps of a method ({why}); delete it to start anew") from error
