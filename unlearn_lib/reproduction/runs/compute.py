"""Compute the records of many scenarios, several originals at a time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from unlearn_lib.checkpoints import Workspace
from unlearn_lib.files import check_writable
from unlearn_lib.progress import Say
from unlearn_lib.reproduction.runs import profiles
from unlearn_lib.reproduction.runs.bench import Bench
from unlearn_lib.reproduction.runs.case_bench import bench_for
from unlearn_lib.reproduction.runs.finished import load, missing
from unlearn_lib.reproduction.runs.processes import completed
from unlearn_lib.reproduction.runs.record import ScenarioRecord
from unlearn_lib.reproduction.runs.scenarios import Scenario
from unlearn_lib.reproduction.runs.store import RunStore


def compute(
    scenarios: Iterable[Scenario],
    store: RunStore,
    report: Say = lambda line: None,
    processes: int = 1,
    workspace: Workspace | None = None,
) -> list[ScenarioRecord]:
    """The records of the scenarios, in order; those that are missing are computed.

    Scenarios with the same task, model, seed and sizes share one original model, which is trained once. With several processes
    each has one thread, and takes one original after the other. An interrupted call loses at most the scenarios under way, and
    of those in a workspace (one process only) not the models they trained.

    Raises:
        InputError: A model was not trained yet.
        OSError: The store's folder cannot be written; nothing was computed.
        OutOfTimeError: The workspace's deadline has passed; the same call goes on from there.
    """
    wanted = list(scenarios)
    groups: dict[str, list[Scenario]] = {}
    for scenario in missing(wanted, store):
        groups.setdefault(repr(scenario.shared()), []).append(scenario)
    if groups:
        check_writable(store.folder)
    if processes > 1:
        # the largest models first, so that no process is left with one at the end
        order = sorted(groups.values(), key=lambda group: ("lms".index(_size(group[0])), group[0].name))
        for lines in completed(_group, [(group, store.folder) for group in order], processes, one_thread):
            for line in lines:
                report(line)
    else:
        for line in _one_by_one(list(groups.values()), store, workspace):
            report(line)
    return load(wanted, store)


def _one_by_one(groups: Sequence[Sequence[Scenario]], store: RunStore, workspace: Workspace | None = None) -> Iterator[str]:
    for group in groups:
        bench = bench_for(group[0], workspace=workspace)
        bench.expect(group)
        for scenario in group:
            yield carry_out(scenario, bench, store)
        bench.workspace.clear()


def carry_out(scenario: Scenario, bench: Bench, store: RunStore) -> str:
    """Compute one record on its bench and put it into the store; returns a line about it."""
    start = time.perf_counter()
    results, timing = bench.run(scenario)
    store.put(scenario.name, scenario.config(), results, timing)
    return f"{scenario.name}: {time.perf_counter() - start:.0f} s"


def _size(scenario: Scenario) -> str:
    return profiles.find(scenario.profile).family_and_size(scenario.model)[1]


def _group(group: Sequence[Scenario], folder: Path) -> list[str]:
    return list(_one_by_one([group], RunStore(folder)))


def one_thread() -> None:
    """What a process of several begins with; its records are those of one thread."""
    from unlearn_lib.progress import quiet_libraries

    torch.set_num_threads(1)
    quiet_libraries()
