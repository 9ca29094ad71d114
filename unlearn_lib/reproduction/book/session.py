"""What every notebook starts with: parameters checked, libraries quiet, one plotting style, records at hand."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unlearn_lib.errors import InputError
from unlearn_lib.reproduction.checkout import project_root
from unlearn_lib.reproduction.runs import finished, profiles
from unlearn_lib.reproduction.runs.profile import Profile
from unlearn_lib.reproduction.runs.record import ScenarioRecord
from unlearn_lib.reproduction.runs.scenarios import Scenario
from unlearn_lib.reproduction.runs.store import RunStore

QUIET = {"HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
"""Environment variables that datasets and transformers read when they are loaded."""


@dataclass(frozen=True)
class Session:
    """The checkout, the profile, the device asked for, and where records come from."""

    root: Path
    profile: Profile
    asked: str
    recompute: bool

    @property
    def device(self) -> str:
        """The device of the part that is computed live: CUDA where it is asked for or, with "auto", where there is one."""
        return _resolved(self.asked)

    def records(self, wanted: Sequence[Scenario]) -> list[ScenarioRecord]:
        """The committed records of the runs; with `recompute` all of them anew, into `build/results/` (resumed when interrupted)."""
        if self.recompute:
            from unlearn_lib.reproduction.runs.compute import compute  # torch, which reading does without

            return compute(wanted, RunStore(self.root / "build" / "results" / self.profile.name))
        return finished.load(wanted, RunStore(self.root / "results" / self.profile.name))

    def folder(self, out: str) -> Path:
        """The folder for figure files, relative to the checkout."""
        return self.root / out


def begin(profile: str = "nano", device: str = "auto", recompute: bool = False) -> Session:
    """Start a notebook.

    Raises:
        InputError: An unknown profile or device, or a switch that is neither true nor false.
    """
    recompute = switch("recompute", recompute)
    chosen = profiles.find(profile)
    warnings.filterwarnings("ignore", message="IProgress not found")  # raised by the next imports
    from unlearn_lib.plotting import use_style

    _quiet()
    use_style()
    if device not in ("auto", "cpu"):
        _resolved(device)  # refused here rather than where it is first used
    return Session(project_root(), chosen, device, recompute)


def _quiet() -> None:
    """No progress bars and no advice in a notebook. What is not loaded yet is not loaded for this: a notebook that only reads records
    does without torch, transformers and datasets, which take seconds."""
    os.environ.update(QUIET)
    if "transformers" in sys.modules or "datasets" in sys.modules:
        from unlearn_lib.progress import quiet_libraries

        quiet_libraries()


def _resolved(device: str) -> str:
    from unlearn_lib.models.load import resolve_device

    return str(resolve_device(device))


def switch(name: str, value: object) -> bool:
    """The value of a notebook's parameter that is true or false.

    papermill's `-p NAME VALUE` makes a bool of `True` and `False` only: `no` and `false` stay texts, and every text that is not empty
    counts as true in Python.

    Raises:
        InputError: It is not a bool.
    """
    if not isinstance(value, bool):
        raise InputError(
            f"the parameter {name} is either True or False, not {value!r}; with papermill write -p {name} True or -p {name} False, with "
            f"unlearn reproduce -p {name}=true or -p {name}=false"
        )
    return value
