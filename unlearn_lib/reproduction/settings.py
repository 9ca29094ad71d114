"""The settings of a profile beside the paper's, with the reason for every difference. Read by runs, notebooks and book."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from unlearn_lib.reproduction.bench import Bench
from unlearn_lib.reproduction.paper import TASKS
from unlearn_lib.reproduction.profile import Profile
from unlearn_lib.reproduction.profiles import NANO, STEP_FACTORS
from unlearn_lib.reproduction.scenarios import ORIGINAL, Scenario
from unlearn_lib.training import TrainingConfig

PAPER_CYCLE_SIZE = 128
EPOCHS, BATCH_SIZE = 5, 8


def training(size: str, profile: Profile = NANO) -> TrainingConfig:
    """How the original model of a size is fine-tuned; retraining does the same on less data."""
    return TrainingConfig(EPOCHS, profile.learning_rate[size], BATCH_SIZE)


def options(size: str, profile: Profile = NANO) -> dict[str, dict[str, Any]]:
    """The methods of the utility tables with their options, for models of a size."""
    return methods(training(size, profile), profile.step_factor, profile.passes.get(size, 1))


def methods(training: TrainingConfig, factor: float, passes: int = 1) -> dict[str, dict[str, Any]]:
    """Every row of the tables with its options: for models trained so, the paper's step lengths times `factor`."""
    streamed = {"passes": passes} if passes > 1 else {}
    rate = {"learning_rate": training.learning_rate, "train_batch_size": training.batch_size}
    return {
        ORIGINAL: {},
        "retrain": {"epochs": training.epochs, **rate},
        "finetune": {"epochs": 1, **rate},
        "gradient-ascent": {"preset": "paper", "step": 5e-5 * factor},
        "gradient-ascent-adam": {"step": training.learning_rate, "optimizer": "adam"},
        "fisher-removal": {"preset": "paper", "step": 2.5e-4 * factor, **streamed},
        "fisher-forgetting": {"preset": "paper", **streamed},
        "fisher-removal-calibrated": {"solver": "block", "step": "calibrate", "steps": 1, "terms": 256, **streamed},
    }


@dataclass(frozen=True)
class Setting:
    """One row of the settings table. `reason` is the key of the profile's reason, by default `what`."""

    what: str
    paper: str
    ours: str
    why: str = ""
    reason: str = ""


def table(profile: Profile = NANO) -> pd.DataFrame:
    """The settings table: the paper's value, the value used here (a column with the profile's name), and why they differ."""
    used = options("s", profile)
    ascent, removal = used["gradient-ascent"]["step"], used["fisher-removal"]["step"]
    rows = [
        Setting("models", "GPT-Neo and OPT, 125M to 2.7B", profile.words["models"]),
        Setting("training samples", "2251 (ARC) to 29837 (MathQA)", _by_task(profile)),
        Setting("removal cache, one cycle", str(PAPER_CYCLE_SIZE), str(profile.cycle_size)),
        Setting("epochs of original and retraining", "not stated; 5", f"{EPOCHS}"),
        Setting("epochs of finetuning", "1", "1"),
        Setting("learning rate", "5e-5", _by_size(profile)),
        Setting("optimiser, batch size", "not stated", f"AdamW, {BATCH_SIZE}, linear decay", "common practice"),
        Setting("ascent step l", "5e-5; raw or Adam not stated", f"raw: {ascent:g}", reason="steps"),
        Setting("", "", "Adam: the learning rate", "in the paper, too, l equals the learning rate"),
        Setting("removal rate gamma", "2.5e-4", f"{removal:g}", reason="steps"),
        Setting("batches of D- in a cycle", "not stated", "one", "the paper's run times fit one or two"),
        Setting("damping lambda", "1", "1"),
        Setting("recursion terms m", "at most 1024", profile.words["recursion terms m"]),
        Setting("D+ samples in a term", "not stated", "8", "the paper's run times fit 8"),
        Setting("block width B", "48, cut not stated", "48, within each tensor, last block padded"),
        Setting("forgetting mu, sigma", "1e-3, 1e-3", "1e-3, 1e-3"),
        Setting("root F^(-1/4)", "not stated", "by eigenvalues of each block"),
        Setting(
            "exposure references",
            "1000, ECHR judgments",
            profile.words.get("exposure references", f"{profile.reference_size}, invented judgments"),
        ),
        Setting("test questions", "2376 (ARC)", profile.words.get("test questions", str(profile.test_size))),
        Setting(
            "our second-order method",
            "",
            "blocks of 48, damping 1e-2 of the mean diagonal, one step, 256 terms, length calibrated on held-out texts",
        ),
        Setting("seeds", "not stated", _seeds(profile)),
    ]
    return pd.DataFrame(
        [
            {
                "what": row.what,
                "paper": row.paper,
                profile.name: row.ours,
                "why": row.why or profile.reasons.get(row.reason or row.what, ""),
            }
            for row in rows
        ]
    )


def _by_task(profile: Profile) -> str:
    sizes = profile.train_sizes
    if len(set(sizes.values())) == 1:
        return str(next(iter(sizes.values())))
    return ", ".join(f"{size} ({TASKS[task]})" for task, size in sizes.items())


def _by_size(profile: Profile) -> str:
    rates = profile.learning_rate
    if len(set(rates.values())) == 1:
        return f"{next(iter(rates.values())):g}"
    return ", ".join(f"{size} {rate:g}" for size, rate in rates.items())


def _seeds(profile: Profile) -> str:
    shown = {size for sizes in profile.sizes.values() for size in sizes}
    numbers = {size: len(seeds) for size, seeds in profile.seeds.items() if size in shown}
    if len(set(numbers.values())) == 1:
        return str(next(iter(numbers.values())))
    return ", ".join(f"{number} ({size})" for size, number in numbers.items())


def scenario(
    task: str, model: str, seed: int, method: str, cycles: int = 2, profile: Profile = NANO, **changes: Any
) -> Scenario:
    """One run with a profile's settings; `model` is one of the profile's."""
    size = profile.family_and_size(model)[1]
    return Scenario(
        task,
        model,
        seed,
        method,
        training(size, profile),
        options(size, profile)[method],
        cycles,
        profile.cycle_size,
        train_size=profile.train_sizes[task],
        test_size=profile.test_size,
        holdout_size=profile.holdout_size,
        reference_size=profile.reference_size,
        measured=profile.measured,
        profile=profile.name,
        **changes,
    )


def tune(profile: Profile = NANO, seed: int = 1000) -> pd.DataFrame:
    """The forget loss after one cycle of Fisher Removal on ARC for every step factor, beside the retrained model's, for the small
    models: what `step_factor` was chosen from."""
    rows = []
    for model in (profile.models[f"{family}-s"] for family in profile.families):
        retrain = scenario("arc_easy", model, seed, "retrain", cycles=1, profile=profile)
        bench = Bench(retrain)
        gold = bench.run(retrain)[0]["after"][0]
        for factor in STEP_FACTORS:
            run = replace(retrain, method="fisher-removal", options={"preset": "paper", "step": 2.5e-4 * factor})
            after = bench.run(run)[0]["after"][0]
            rows.append(
                {"model": model, "factor": factor, "forget_loss": after["forget_loss"], "retrained": gold["forget_loss"]}
            )
    return pd.DataFrame(rows)


def live_cycles(
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
