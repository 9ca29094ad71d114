"""Compute what is missing: the models of a profile first, then the records, in as many pieces of limited time as it takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from unlearn_lib.checkpoints import Deadline, Workspace
from unlearn_lib.errors import InputError
from unlearn_lib.files import write_text
from unlearn_lib.models.load import load_model
from unlearn_lib.progress import Say, quiet_libraries
from unlearn_lib.reproduction.runs import compute, finished
from unlearn_lib.reproduction.runs.grids import grid
from unlearn_lib.reproduction.runs.profile import Profile, manifest_beside_records
from unlearn_lib.reproduction.runs.profiles import NANO
from unlearn_lib.reproduction.runs.scenarios import Scenario
from unlearn_lib.reproduction.runs.store import RunStore


@dataclass(frozen=True)
class Campaign:
    """The runs that are wanted of a profile, in the checkout at `root`."""

    profile: Profile
    wanted: Sequence[Scenario]
    root: Path

    @classmethod
    def of(cls, profile: Profile, identifiers: Iterable[str], root: Path) -> Self:
        """The runs that tables and figures are made from."""
        return cls(profile, [run for identifier in identifiers for run in grid(identifier, profile)], root)

    @property
    def store(self) -> RunStore:
        """Where the records lie."""
        return RunStore(self.root / "results" / self.profile.name)

    def run(self, deadline: Deadline, processes: int, say: Say) -> None:
        """Train or download the missing models and compute the missing records.

        Trained models of a run that is not finished are kept in `build/trained/` until its records are written (with one
        process).

        Raises:
            InputError: Something is missing, and the profile's device is not on this machine.
            OutOfTimeError: The deadline has passed; the same call goes on from there.
        """
        quiet_libraries()
        if any(self.left()):
            self.check_device()
        self.obtain(deadline, say)
        compute.compute(self.wanted, self.store, say, processes, self.workspace(deadline) if processes == 1 else None)

    def workspace(self, deadline: Deadline) -> Workspace:
        """Where trained models are kept until the records that need them are written."""
        return Workspace(self.root / "build" / "trained" / self.profile.name, deadline)

    def check_device(self) -> None:
        """Stop where the profile's device is not on this machine.

        Raises:
            InputError: It is not.
        """
        if self.profile.device != "cpu" and not torch.cuda.is_available():
            raise InputError(
                f"the profile {self.profile.name} computes on a GPU, and torch sees no CUDA device here; run the same command where "
                "there is one"
            )

    def left(self) -> tuple[int, int]:
        """(models that are not here yet, records that are not computed yet)."""
        models = self.models_missing()
        known = finished.missing((run for run in self.wanted if run.model not in models), self.store)
        return len(models), len(known) + len({repr(run) for run in self.wanted if run.model in models})

    def models_missing(self) -> list[str]:
        """The models that some missing record needs and that are not on this machine, in the order of the runs."""
        known = self.profile.kept_manifest()["models"]
        found = []
        for model in dict.fromkeys(run.model for run in self.wanted):
            if not self.profile.here(model):
                own = [run for run in self.wanted if run.model == model]
                if model not in known or finished.missing(own, self.store):
                    found.append(model)
        return found

    def obtain(self, deadline: Deadline, say: Say) -> None:
        """Train or download the missing models, and keep what tells them apart beside the records.

        Raises:
            OutOfTimeError: The deadline has passed; the same call goes on from there.
        """
        known = self.profile.kept_manifest()["models"]
        for name in self.models_missing():
            if name in known:
                say(
                    f"{name} is trained or downloaded anew; records of earlier weights in {self.store.folder} are not used any more"
                )
            if self.profile.recipe is None:
                deadline.check()
                say(f"{name} is downloaded")
                load_model(name, device="cpu")
            else:
                from unlearn_lib.models.pretraining import train

                train(self.profile.recipe, [name], device=self.profile.device, deadline=deadline, say=say)
            self.keep_manifest()
        self.keep_manifest()

    def keep_manifest(self) -> None:
        """Add the models on this machine to the manifest beside the records; those of nano are in the checkout anyway."""
        if self.profile is NANO:
            return
        kept, here = self.profile.kept_manifest(), self.profile.manifest()
        merged = {part: {**kept[part], **here[part]} for part in ("files", "models")}
        if merged != kept:
            write_text(manifest_beside_records(self.root, self.profile), json.dumps(merged, indent=1) + "\n")
