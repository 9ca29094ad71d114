"""The settings of the nano profile beside the paper's, with the reason for every difference. Read by runs, notebooks and book."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from unlearn_lib.reproduction.scenarios import ORIGINAL, Bench, Scenario
from unlearn_lib.training import TrainingConfig

SEEDS = (0, 1, 2)
CYCLE_SIZE = 32
PAPER_CYCLE_SIZE = 128
TRAINING = TrainingConfig(epochs=5, learning_rate=1e-3, batch_size=8)
RETRAIN = {"epochs": TRAINING.epochs, "learning_rate": TRAINING.learning_rate, "train_batch_size": TRAINING.batch_size}
OPTIONS: dict[str, dict[str, Any]] = {
    ORIGINAL: {},
    "retrain": RETRAIN,
    "finetune": {**RETRAIN, "epochs": 1},
    "gradient-ascent": {"step": 1.0},
    "fisher-removal": {"preset": "paper", "step": 1.0},
    "fisher-forgetting": {"preset": "paper"},
}


@dataclass(frozen=True)
class Setting:
    """One row of the settings table."""

    what: str
    paper: str
    nano: str
    why: str


def table() -> pd.DataFrame:
    """The settings table: the paper's value, the value used here, and why they differ."""
    rows: list[Setting] = []
    return pd.DataFrame([vars(row) for row in rows])


def utility_grid(task: str, models: tuple[str, ...], seeds: tuple[int, ...] = SEEDS) -> list[Scenario]:
    """The runs of one of the paper's utility tables: every method over two cycles, and the original model."""
    return [scenario(task, model, seed, method, cycles=2) for model in models for seed in seeds for method in OPTIONS]


def cycles_grid(tasks: tuple[str, ...], model: str, seeds: tuple[int, ...] = SEEDS) -> list[Scenario]:
    """The runs of figure 5: the three approximate methods over four cycles, and the original model."""
    methods = (ORIGINAL, "gradient-ascent", "fisher-removal", "fisher-forgetting")
    return [scenario(task, model, seed, method, cycles=4) for task in tasks for seed in seeds for method in methods]


def grid(identifier: str) -> list[Scenario]:
    """The runs behind an id of the inventory; none for a notebook that only computes live."""
    return {
        "table03": lambda: utility_grid("arc_easy", ("nano/neo-s", "nano/opt-s")),
        "fig05": lambda: cycles_grid(("lambada", "piqa"), "nano/neo-s"),
    }.get(identifier, list)()


def scenario(task: str, model: str, seed: int, method: str, cycles: int) -> Scenario:
    """One run with the nano profile's settings."""
    return Scenario(task, model, seed, method, TRAINING, OPTIONS[method], cycles, CYCLE_SIZE, test_size=200)


def live_cycles(
    task: str, model: str, method: str, seed: int, cycles: int = 2
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """(before, after) of a run on a fraction of the data, for the live part of a notebook: seconds on two cores."""
    small = Scenario(
        task, model, seed, method, TRAINING, OPTIONS[method], cycles,
        cycle_size=8, train_size=96, test_size=32, holdout_size=64, reference_size=64,
    )  # fmt: skip
    results, _ = Bench(small).run(small)
    return results["before"], results["after"]
