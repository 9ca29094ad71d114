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

STEP_FACTOR = 2000
"""One factor for both of the paper's step lengths, so that their ratio stays 5 as printed: the smallest of 500, 1000, 2000,
4000, 8000 at which one cycle of Fisher Removal brings the forget loss to the retrained model's, on ARC, both small models,
seed 1000 (`tune`), which is not among the reported seeds."""

OPTIONS: dict[str, dict[str, Any]] = {
    ORIGINAL: {},
    "retrain": RETRAIN,
    "finetune": {**RETRAIN, "epochs": 1},
    "gradient-ascent": {"step": 5e-5 * STEP_FACTOR},
    "gradient-ascent-adam": {"step": TRAINING.learning_rate, "optimizer": "adam"},
    "fisher-removal": {"preset": "paper", "step": 2.5e-4 * STEP_FACTOR},
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
    small, removal = "the nano models are about a thousand times smaller", OPTIONS["fisher-removal"]
    scaled = (
        f"both times {STEP_FACTOR}, the smallest factor of {', '.join(map(str, STEP_FACTORS))} at which one cycle of removal reaches the "
        "retrained model's forget loss (ARC, small models, a seed of its own)"
    )
    rows = [
        Setting(
            "models", "GPT-Neo and OPT, 125M to 2.7B", "GPTNeoForCausalLM, OPTForCausalLM, 0.2 to 2.9 M", "runs on any CPU"
        ),
        Setting("training samples", "2251 (ARC) to 29837 (MathQA)", "512", "minutes, not days"),
        Setting(
            "removal cache, one cycle",
            str(PAPER_CYCLE_SIZE),
            str(CYCLE_SIZE),
            "1/16 of the training set; in the paper 1/18 (ARC)",
        ),
        Setting("epochs of original and retraining", "not stated; 5", f"{TRAINING.epochs}", ""),
        Setting("epochs of finetuning", "1", f"{OPTIONS['finetune']['epochs']}", ""),
        Setting("learning rate", "5e-5", f"{TRAINING.learning_rate:g}", small + " and train at larger rates"),
        Setting("optimiser, batch size", "not stated", f"AdamW, {TRAINING.batch_size}, linear decay", "common practice"),
        Setting("ascent step l", "5e-5; raw or Adam not stated", f"raw: {OPTIONS['gradient-ascent']['step']:g}", scaled),
        Setting("", "", f"Adam: {OPTIONS['gradient-ascent-adam']['step']:g}", "the learning rate, as in the paper"),
        Setting("removal rate gamma", "2.5e-4", f"{removal['step']:g}", scaled),
        Setting("batches of D- in a cycle", "not stated", "one", "the paper's run times fit one or two"),
        Setting("damping lambda", "1", "1", ""),
        Setting("recursion terms m", "at most 1024", "at most 1024: all of D+, 56 to 60 terms", "512 samples in batches of 8"),
        Setting("D+ samples in a term", "not stated", "8", "the paper's run times fit 8"),
        Setting("block width B", "48, cut not stated", "48, within each tensor, last block padded", ""),
        Setting("forgetting mu, sigma", "1e-3, 1e-3", "1e-3, 1e-3", ""),
        Setting("root F^(-1/4)", "not stated", "by eigenvalues of each block", ""),
        Setting("exposure references", "1000, ECHR judgments", "256, invented judgments", "one forward pass in seconds"),
        Setting("test questions", "2376 (ARC)", "200", "standard error of one accuracy: about 3.5 points"),
        Setting("seeds", "not stated", f"{len(SEEDS)}", ""),
    ]
    return pd.DataFrame([vars(row) for row in rows])


def utility_grid(task: str, models: tuple[str, ...], seeds: tuple[int, ...] = SEEDS) -> list[Scenario]:
    """The runs of one of the paper's utility tables: every method over two cycles, and the original model."""
    return [scenario(task, model, seed, method, cycles=2) for model in models for seed in seeds for method in OPTIONS]


def cycles_grid(tasks: tuple[str, ...], model: str, seeds: tuple[int, ...] = SEEDS) -> list[Scenario]:
    """The runs of figure 5: the three approximate methods over four cycles, and the original model."""
    methods = (ORIGINAL, "gradient-ascent", "gradient-ascent-adam", "fisher-removal", "fisher-forgetting")
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


STEP_FACTORS = (500, 1000, 2000, 4000, 8000)


def tune(models: tuple[str, ...] = ("nano/neo-s", "nano/opt-s"), seed: int = 1000) -> pd.DataFrame:
    """The forget loss after one cycle of Fisher Removal for every step factor, beside the retrained model's."""
    rows = []
    for model in models:
        bench = Bench(scenario("arc_easy", model, seed, "retrain", cycles=1))
        gold = bench.run(scenario("arc_easy", model, seed, "retrain", cycles=1))[0]["after"][0]
        for factor in STEP_FACTORS:
            options = {"preset": "paper", "step": 2.5e-4 * factor}
            run = Scenario("arc_easy", model, seed, "fisher-removal", TRAINING, options, 1, CYCLE_SIZE, test_size=200)
            after = bench.run(run)[0]["after"][0]
            rows.append(
                {"model": model, "factor": factor, "forget_loss": after["forget_loss"], "retrained": gold["forget_loss"]}
            )
    return pd.DataFrame(rows)


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
