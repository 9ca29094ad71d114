"""The parts of notebooks that are computed while they run: a scenario on a fraction of the data, whichever profile is shown."""

from __future__ import annotations

from dataclasses import replace

from unlearn_lib.reproduction.runs.bench import Bench
from unlearn_lib.reproduction.runs.grids import scenario


def cycles(
    task: str, model: str, method: str, seed: int, device: str, cycles: int = 2
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """(before, after) of a run of the nano profile on a fraction of the data, for the live part of a notebook: seconds on two
    cores, whichever profile the notebook draws from."""
    small = replace(
        scenario(task, model, seed, method, cycles),
        cycle_size=8,
        train_size=64,
        test_size=32,
        holdout_size=32,
        reference_size=32,
    )
    results, _ = Bench(small, device).run(small)
    return results["before"], results["after"]
