"""The runs behind the paper's tables and figures, as data: train, forget in consecutive cycles, measure after each.

One scenario is one task, one model, one seed, one method. The base model is fine-tuned on D; then, cycle after cycle, the next
`cycle_size` random training samples are unlearned (the paper's removal cache). `bench.py` carries a scenario out,
`compute.py` many of them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from unlearn_lib.data.tasks import Task, load_task
from unlearn_lib.reproduction.runs import profiles
from unlearn_lib.reproduction.runs.store import key
from unlearn_lib.training.config import TrainingConfig

NUMERICS_VERSION = 3
"""Raised by hand whenever a change of the code changes results, so that older records are no longer used."""
LIMITED_NUMERICS_VERSION = 4
"""The same of runs that are held to a limit on the retain loss: it is checked on texts that the steps are not computed from."""

OWN = ("method", "options", "cycles", "detail")
"""What may differ between scenarios that share an original model and all that is measured of it."""


@dataclass(frozen=True)
class Scenario:
    """One run.

    Attributes:
        task, model, seed: What is learnt and forgotten.
        method: A name in METHODS, perhaps with a suffix that tells two sets of options apart ("gradient-ascent-adam");
            "original" for the model before any unlearning; "dp-sgd" for one trained privately on all of D.
        training: How the original model is trained, and how retraining goes.
        options: The options of the method.
        cycles, cycle_size: How many cycles of how many samples.
        train_size, test_size, holdout_size, reference_size: Texts of the task.
        measured: At most so many retained and held-out texts are measured, always the same ones; the other held-out texts tell
            a method where to stop.
        detail: What is recorded besides, a name in `details.DETAILS`.
        activation: Another activation function for the same weights, before fine-tuning.
        profile: The profile that the model and the texts belong to.
    """

    task: str
    model: str
    seed: int
    method: str
    training: TrainingConfig
    options: dict[str, Any] = field(default_factory=dict)
    cycles: int = 2
    cycle_size: int = 32
    train_size: int = 512
    test_size: int = 100
    holdout_size: int = 256
    reference_size: int = 256
    measured: int = 128
    detail: str = ""
    activation: str = ""
    profile: str = "nano"

    @property
    def name(self) -> str:
        """A readable file name prefix."""
        parts = [self.task, profiles.find(self.profile).label(self.model), self.activation, self.method, self.detail]
        return "-".join([*filter(None, parts), f"{self.cycles}x{self.cycle_size}", f"seed{self.seed}"])

    @property
    def limited(self) -> bool:
        """Whether the method is held to a limit on the retain loss: it is where it finds its step itself, unless the limit is None."""
        calibrates = "calibrate" in (self.options.get("step"), self.options.get("stop"))
        return calibrates and self.options.get("retain_limit", "the method's own") is not None

    def sizes(self) -> dict[str, int]:
        """Texts of each part of the task."""
        return {
            "train": self.train_size,
            "test": self.test_size,
            "holdout": self.holdout_size,
            "reference": self.reference_size,
        }

    def load_task(self) -> Task:
        """The scenario's texts; loaded once a process."""
        return _task(*self.data())

    def data(self) -> tuple[Any, ...]:
        """What `load_task` is asked for: task, source, seed, sizes, and more where a kind of scenario has more."""
        return self.task, profiles.find(self.profile).source_of(self.task), self.seed, tuple(self.sizes().items())

    def shared(self) -> dict[str, Any]:
        """What scenarios have in common that share an original model and all that is measured of it."""
        return {name: value for name, value in asdict(self).items() if name not in OWN}

    def config(self) -> dict[str, Any]:
        """Everything the results depend on, hashes of data and model included.

        Raises:
            InputError: The model was never trained.
        """
        return {
            "scenario": "forgetting-cycles",
            "numerics": LIMITED_NUMERICS_VERSION if self.limited else NUMERICS_VERSION,
            **asdict(self),
            "model_sha256": profiles.find(self.profile).model_files(self.model),
            "data_sha256": _task_sha256(*self.data()),
        }

    def shared_config(self) -> dict[str, Any]:
        """Everything the original model and those retrained from the same base depend on."""
        shared = {name: value for name, value in self.config().items() if name not in OWN}
        return {**shared, "numerics": NUMERICS_VERSION}

    def original(self) -> str:
        """The name of the original model, which is that of the folder its checkpoints are kept in."""
        return f"{self.task}-{key(self.shared_config())[:12]}"


@cache
def _task(name: str, source: str, seed: int, sizes: tuple[tuple[str, int], ...], *more: Any) -> Task:
    return load_task(name, source, seed, dict(sizes), *more)


@cache
def _task_sha256(*data: Any) -> str:
    return _task(*data).sha256()
