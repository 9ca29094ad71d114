"""What a profile of the reproduction is; `profiles.py` says which there are."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearn_lib.data.private_sets import FILES as PRIVATE_FILES
from unlearn_lib.errors import InputError, unknown
from unlearn_lib.models import hub_cache
from unlearn_lib.models.recipes import Recipe, files_of
from unlearn_lib.reproduction.checkout import project_root
from unlearn_lib.training.config import TrainingConfig

PRIVATE_SETS = "UNLEARN_LIB_PRIVATE_SETS"
"""The environment variable with the folder of a user's own downloads: `medical/` and `email/` below it."""


@dataclass(frozen=True)
class CaseSettings:
    """The case studies of a profile, for its smallest models.

    Attributes:
        train_size, holdout_size, measured: See `Scenario`.
        training: How the original model is trained, and how retraining goes.
        step_factor: The factor of the paper's step lengths.
        rate: The share of near-duplicates in generated texts.
        rates: Shares of near-duplicates in the texts of the deduplication experiment.
    """

    train_size: int
    holdout_size: int
    measured: int
    training: TrainingConfig
    step_factor: float
    rate: float
    rates: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Profile:
    """One profile.

    Attributes:
        name: Its name, which is also that of the folder of its records in `results/`.
        models: What `load_model` is given, by label: family (`neo`, `opt`) and size (`s`, `m`, `l`), as in `opt-s`.
        sizes: The sizes of models in the table of each task.
        seeds: For each size of models.
        train_sizes: Texts that are trained on, by task.
        test_size, holdout_size, reference_size, measured: See `Scenario`.
        cycle_size: Samples that are removed in one cycle.
        learning_rate: The learning rate of fine-tuning and retraining, by size.
        step_factor: A factor of both of the paper's step lengths, so that their ratio stays as printed.
        batch_size: Texts that go through a model at a time where their grouping does not matter.
        passes: In how many groups the second-order methods work through the parameters, by size; one where none is given.
        private: Options of DP-SGD beside epsilon and the learning rate, see `PrivacyConfig`.
        cases: The case studies on private text.
        device: Where runs are computed.
        processes: How many runs at a time.
        source: Where the tasks come from, "nano" or "hub", see `load_task`.
        recipe: How the models are trained; None for models of the hub.
        command: What computes missing records.
        words: Values of the settings table that are no numbers of this class, by row.
        reasons: Why a value is not the paper's, by row of the settings table.
    """

    name: str
    models: Mapping[str, str]
    sizes: Mapping[str, tuple[str, ...]]
    seeds: Mapping[str, tuple[int, ...]]
    train_sizes: Mapping[str, int]
    test_size: int
    holdout_size: int
    reference_size: int
    measured: int
    cycle_size: int
    batch_size: int
    learning_rate: Mapping[str, float]
    step_factor: float
    cases: CaseSettings
    device: str
    processes: int
    command: str
    words: Mapping[str, str]
    reasons: Mapping[str, str]
    passes: Mapping[str, int] = field(default_factory=dict)
    private: Mapping[str, Any] = field(default_factory=dict)
    source: str = "nano"
    recipe: Recipe | None = None

    @property
    def families(self) -> tuple[str, ...]:
        """The families of models."""
        return tuple(dict.fromkeys(label.split("-")[0] for label in self.models))

    def label(self, model: str) -> str:
        """The label of a model of this profile.

        Raises:
            InputError: It is not one of them.
        """
        for label, name in self.models.items():
            if name == model:
                return label
        raise unknown(f"model of the profile {self.name}", model, self.models.values())

    def family_and_size(self, model: str) -> tuple[str, str]:
        """Family and size of a model of this profile: ("opt", "s")."""
        family, size = self.label(model).split("-")
        return family, size

    def source_of(self, task: str) -> str:
        """Where a task comes from: the profile's source, but for the private sets, which are on no hub, the user's own download.

        Raises:
            InputError: The environment variable that names its folder is not set.
        """
        if self.source == "nano" or task not in PRIVATE_FILES:
            return self.source
        if PRIVATE_SETS not in os.environ:
            raise InputError(
                f"task {task!r} of the profile {self.name} needs your own download of {PRIVATE_FILES[task][0]}; put it into a folder "
                f"{task}/ and set {PRIVATE_SETS} to the folder around it (see the page on private texts)"
            )
        return str(Path(os.environ[PRIVATE_SETS]) / task)

    def manifest(self) -> dict[str, Any]:
        """`files` and `models` of those models of the profile that are on this machine."""
        if self.recipe is not None:
            return self.recipe.manifest()
        found = {name: hub_cache.commits(name) for name in self.models.values()}
        return {"files": {}, "models": {name: known for name, known in found.items() if known is not None}}

    def here(self, model: str) -> bool:
        """Whether a model's files are on this machine."""
        return self.recipe.trained(model) if self.recipe is not None else hub_cache.commits(model) is not None

    def model_files(self, model: str) -> dict[str, str]:
        """What tells the files apart that a model is loaded from, part of every run's configuration: their SHA-256, of a model of
        the hub the commits.

        Models that are not on this machine are looked up in the manifest that was kept beside the records.

        Raises:
            InputError: The model was never here; the message names the command.
        """
        manifest = self.manifest()
        if model not in manifest["models"]:
            manifest = self.kept_manifest()
        if model not in manifest["models"]:
            missing = "trained" if self.recipe is not None else "downloaded"
            raise InputError(
                f"there are no records of {model} in the profile {self.name}: it was not {missing} yet; compute them with "
                f"`{self.command}`"
            )
        if self.recipe is None:
            commits: dict[str, str] = manifest["models"][model]
            return commits
        return files_of(manifest, model)

    def kept_manifest(self) -> dict[str, Any]:
        """The manifest of the models that the records in this checkout were made with; empty where there is none."""
        path = manifest_beside_records(project_root(), self)
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"files": {}, "models": {}}
        return found


def manifest_beside_records(root: Path, profile: Profile) -> Path:
    """Where the manifest of a profile's models is kept with its records, so that these can be read where the models are not."""
    return root / "results" / profile.name / "models" / "manifest.json"
