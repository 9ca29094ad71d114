"""A campaign in single calls, so that a workflow engine can spread them over machines: what is missing, one original model, one record.

They use the workspace of `Campaign` and the same store. Calls may run at the same time, of one original model, too: a file is written
whole, and two that train the same model write the same weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unlearn_lib.checkpoints import Deadline
from unlearn_lib.errors import InputError
from unlearn_lib.files import check_writable, write_text
from unlearn_lib.progress import Say, quiet_libraries
from unlearn_lib.reproduction.runs import finished
from unlearn_lib.reproduction.runs.campaign import Campaign
from unlearn_lib.reproduction.runs.case_bench import bench_for
from unlearn_lib.reproduction.runs.compute import carry_out, one_thread
from unlearn_lib.reproduction.runs.grids import GRIDS, grid
from unlearn_lib.reproduction.runs.labels import ORIGINAL
from unlearn_lib.reproduction.runs.profile import Profile
from unlearn_lib.reproduction.runs.scenarios import Scenario

MARKER = "original.done"
"""The empty file beside the checkpoints of an original model that says that it is trained."""


def missing(campaign: Campaign) -> dict[str, Any]:
    """What is left of a campaign: `models` that are to be trained or downloaded first, and the missing `records` of all others.

    A record has its `file`, the name of its `original`, the `marker` of that, and in `after` the record that should be computed before
    it, or None. That record trains the retrained models, with which the others of the same original are compared, too. All paths are
    relative to the checkout.
    """
    models = campaign.models_missing()
    groups: dict[str, list[Scenario]] = {}
    for run in finished.missing((run for run in campaign.wanted if run.model not in models), campaign.store):
        groups.setdefault(run.original(), []).append(run)
    records = []
    for original, group in groups.items():
        first = max(group, key=lambda run: (run.cycles, run.method == ORIGINAL))
        for run in group:
            after = None if run is first else _relative(campaign, _file(campaign, first))
            own = {"file": _relative(campaign, _file(campaign, run)), "original": original}
            records.append({**own, "marker": _relative(campaign, _marker(campaign, original)), "after": after})
    return {"models": models, "records": records}


def models(campaign: Campaign, say: Say) -> None:
    """Train or download the models that a campaign needs and that are not here.

    Raises:
        InputError: One is missing, and the profile's device is not on this machine.
    """
    quiet_libraries()
    if campaign.models_missing():
        campaign.check_device()
    campaign.obtain(Deadline(), say)


def original(name: str, profile: Profile, root: Path, say: Say) -> None:
    """Train the original model of this name and keep its checkpoint; one that was interrupted goes on.

    Raises:
        InputError: No run has such an original model, or the profile's device is not on this machine.
        OSError: The workspace cannot be written; nothing was computed.
    """
    scenario = _with_original(name, profile)
    campaign = Campaign(profile, [scenario], root)
    marker = _marker(campaign, name)
    if marker.exists() and marker.with_name("original.safetensors").exists():
        say(f"{name}: trained already")
        return
    _prepare(campaign, marker.parent)
    bench = bench_for(scenario, workspace=campaign.workspace(Deadline()))
    write_text(marker, "")
    say(f"{name}: trained in {bench.training_seconds:.0f} s")


def record(file: str | Path, profile: Profile, root: Path, say: Say) -> None:
    """Compute the record of this file (relative to the checkout) and keep the models that were trained for it in the workspace.

    Raises:
        InputError: No run has this record, or the profile's device is not on this machine.
        OSError: The store's folder cannot be written; nothing was computed.
    """
    scenario = _with_file(file, profile, root)
    campaign = Campaign(profile, [scenario], root)
    if not finished.missing([scenario], campaign.store):
        say(f"{scenario.name}: computed already")
        return
    _prepare(campaign, campaign.store.folder)
    say(carry_out(scenario, bench_for(scenario, workspace=campaign.workspace(Deadline())), campaign.store))


def _prepare(campaign: Campaign, folder: Path) -> None:
    """Make this process one that computes as `Campaign.run` does, and writes into `folder`."""
    campaign.check_device()
    check_writable(folder)
    campaign.keep_manifest()
    if campaign.profile.processes > 1:
        one_thread()
    quiet_libraries()


def _with_original(name: str, profile: Profile) -> Scenario:
    looked_at = set()
    for run in _runs(profile):
        shared = repr(run.shared())
        # hashing a task takes longer than anything else here, so only those of the task that the name begins with are asked
        if run.task == name.rpartition("-")[0] and shared not in looked_at:
            looked_at.add(shared)
            if run.original() == name:
                return run
    raise _no_such("original model", name, profile)


def _with_file(file: str | Path, profile: Profile, root: Path) -> Scenario:
    campaign, name = Campaign(profile, [], root), Path(file).name
    if (root / file).parent == campaign.store.folder:
        for run in _runs(profile):
            if name.startswith(f"{run.name}-") and _file(campaign, run).name == name:
                return run
    raise _no_such("record", str(file), profile)


def _runs(profile: Profile) -> Iterator[Scenario]:
    """All runs of the profile's grids whose model is on this machine."""
    here = {model: profile.here(model) for model in profile.models.values()}
    return (run for identifier in GRIDS for run in grid(identifier, profile) if here[run.model])


def _no_such(kind: str, name: str, profile: Profile) -> InputError:
    return InputError(
        f"no run of the profile {profile.name} whose model is on this machine has the {kind} {name}; it may belong to older data, "
        f"options or models: take the name from `unlearn records missing --all --profile {profile.name}`"
    )


def _file(campaign: Campaign, run: Scenario) -> Path:
    return campaign.store.path(run.name, run.config())


def _marker(campaign: Campaign, original: str) -> Path:
    folder = campaign.workspace(Deadline()).below(original).folder
    assert folder is not None
    return folder / MARKER


def _relative(campaign: Campaign, path: Path) -> str:
    return os.path.relpath(path, campaign.root)
