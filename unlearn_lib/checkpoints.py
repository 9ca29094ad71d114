"""Work in pieces: a time to stop, and training that goes on where it was interrupted, to the same weights.

A checkpoint is one safetensors file: parameters (of a model in bfloat16 the float32 ones that are trained), the optimiser's state,
and, as JSON in its header, the loss of every step so far and the seconds it took. The number of losses is the number of steps, and
with it the position in the data; what a step draws depends on its number alone, so no generator's state is needed.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from unlearn_lib.errors import InputError, wrong_in
from unlearn_lib.files import new_file
from unlearn_lib.ranks import ranks

SECONDS_BETWEEN = 120.0
NOT_FINISHED = 75
"""The exit code of a command that stopped at its deadline (EX_TEMPFAIL: call it again)."""
RESERVE = 0.1
"""This share of the minutes is kept back for the step under way and for writing."""


class OutOfTimeError(Exception):
    """The time is over; what was done is kept, and the same call goes on from there."""


class Deadline:
    """When to stop: after so many minutes less `RESERVE`, from now on; None means never."""

    def __init__(self, minutes: float | None = None) -> None:
        self._end = math.inf if minutes is None else time.monotonic() + 60 * minutes * (1 - RESERVE)

    @property
    def passed(self) -> bool:
        """Whether it is time to stop."""
        return time.monotonic() >= self._end

    def check(self) -> None:
        """Stop when it is time.

        Raises:
            OutOfTimeError: The time is over.
        """
        if self.passed:
            raise OutOfTimeError


@dataclass(frozen=True)
class Workspace:
    """A folder for the checkpoints of work that belongs together, and when to stop; without a folder nothing is kept."""

    folder: Path | None = None
    deadline: Deadline = field(default_factory=Deadline)

    def below(self, name: str) -> Workspace:
        """A subfolder, with the same deadline."""
        return Workspace(self.folder and self.folder / name, self.deadline)

    def checkpoint(self, name: str, key: str) -> Checkpoint:
        """The checkpoint of a training in this folder."""
        return Checkpoint(self.folder and self.folder / f"{name}.safetensors", key, self.deadline)

    def clear(self) -> None:
        """Called when the results are kept elsewhere."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)


class Header(BaseModel):
    """What the header of a checkpoint says: the `key` of its training, the `losses` of the steps so far, and the `seconds` they took."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    key: str
    losses: list[int | float]
    seconds: int | float


class Checkpoint:
    """The checkpoint of one training, used in the order `restore`, `step_done` after every step, `finish`.

    Args:
        path: The file; None keeps nothing.
        key: What the training depends on; a file with another key is refused.
        deadline: When to save and stop.
    """

    def __init__(self, path: Path | None = None, key: str = "", deadline: Deadline | None = None) -> None:
        self.path, self.key, self.deadline = path, key, deadline or Deadline()
        self._before, self._restored = 0.0, 0
        self._start = self._saved = time.monotonic()

    @property
    def seconds(self) -> float:
        """Spent so far, before interruptions, too."""
        return self._before + time.monotonic() - self._start

    def restore(self, model: Any, optimizer: torch.optim.Optimizer) -> list[float]:
        """Put model and optimiser where the last checkpoint left them; returns the losses so far, none without a checkpoint.

        Raises:
            InputError: The file is no checkpoint, or belongs to another training.
        """
        losses: list[float] = []
        self._start = self._saved = time.monotonic()
        if self.path is not None and self.path.exists():
            from safetensors import safe_open
            from safetensors.torch import load_file

            with safe_open(self.path, "pt") as file:
                header = _header(self.path, file.metadata())
            if header.key != self.key:
                raise InputError(
                    f"the checkpoint {self.path} belongs to a training with other settings; delete it to start anew"
                )
            losses, self._before = list(header.losses), header.seconds
            _put(load_file(self.path), model, optimizer)
        self._restored = same_everywhere(len(losses), self.path)
        return losses

    def step_done(self, model: Any, optimizer: torch.optim.Optimizer, losses: list[float]) -> None:
        """Called after every step: saves every `SECONDS_BETWEEN` seconds, and at the deadline.

        Raises:
            OutOfTimeError: The deadline has passed; the checkpoint is written.
        """
        over = self.deadline.passed
        if over or time.monotonic() - self._saved >= SECONDS_BETWEEN:
            self._save(_parameters(model) | _optimizer_tensors(optimizer), losses)
        if over:
            raise OutOfTimeError

    def finish(self, model: Any, losses: list[float]) -> None:
        """Called after the last step: keeps the parameters alone, from which `restore` has nothing left to do."""
        if len(losses) > self._restored:
            self._save(_parameters(model), losses)

    def remove(self) -> None:
        """Called when the result is kept elsewhere."""
        if self.path is not None and ranks().first:
            self.path.unlink(missing_ok=True)

    def _save(self, tensors: dict[str, torch.Tensor], losses: list[float]) -> None:
        from safetensors.torch import save_file

        if self.path is not None and ranks().first:
            header = Header(key=self.key, losses=losses, seconds=self.seconds)
            with new_file(self.path) as temporary:
                save_file(tensors, temporary, metadata={"state": json.dumps(header.model_dump())})
        self._saved = time.monotonic()


def _header(path: Path, metadata: Mapping[str, str] | None) -> Header:
    try:
        return Header.model_validate(json.loads((metadata or {}).get("state", "null")))
    except ValidationError as error:
        raise InputError(f"{path} is no checkpoint of a training ({wrong_in(error)}); delete it to start anew") from error


def _parameters(model: Any) -> dict[str, torch.Tensor]:
    # tied weights appear once; buffers follow from the configuration
    return {f"model.{name}": p.detach() for name, p in model.named_parameters()}


def same_everywhere(done: int, path: Path | None) -> int:
    """How many steps are done, which has to be the same in all processes.

    Raises:
        InputError: It is not.
    """
    if path is None:  # nothing is kept
        return done
    found = ranks().told(done)
    if len(set(found)) > 1:
        raise InputError(
            f"the processes find different states in {path} (steps done: {', '.join(map(str, found))}); put it where all machines see the "
            "same files, or delete it to start anew"
        )
    return done


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """What an optimiser keeps of every parameter, by the parameter's number."""
    return {str(number): dict(own) for number, own in optimizer.state_dict()["state"].items()}


def put_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, dict[str, Any]]) -> None:
    """Give an optimiser what `optimizer_state` took from one like it."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {int(number): own for number, own in state.items()}, "param_groups": groups})


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimizer_state(optimizer)
    return {f"optimizer.{number}.{name}": tensor for number, own in state.items() for name, tensor in own.items()}


def _put(tensors: dict[str, torch.Tensor], model: Any, optimizer: torch.optim.Optimizer) -> None:
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(tensors[f"model.{name}"])
    own: dict[str, dict[str, Any]] = {}
    for key, tensor in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "optimizer":
            number, _, name = rest.partition(".")
            own.setdefault(number, {})[name] = tensor
    put_optimizer_state(optimizer, own)
