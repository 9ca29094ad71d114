"""The settings of a profile beside the paper's, with the reason for every difference."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.runs.options import BATCH_SIZE, options
from unlearn_lib.reproduction.runs.profile import Profile
from unlearn_lib.reproduction.runs.profiles import NANO


@dataclass(frozen=True)
class Setting:
    """One row of the settings table; the paper's value is `paper.SETTINGS[what]`, where it has one.

    Attributes:
        what: What is set.
        here: The value in this repository.
        why: Why it differs, where that is the same in every profile.
        reason: The key of the profile's reason, by default `what`.
    """

    what: str
    here: str
    why: str = ""
    reason: str = ""


def table(profile: Profile = NANO) -> pd.DataFrame:
    """The settings table: the paper's value, the value used here (a column with the profile's name), and why they differ."""
    used = options("s", profile)
    ascent, removal = used["gradient-ascent"]["step"], used["fisher-removal"]["step"]
    rows = [
        Setting("models", profile.words["models"]),
        Setting("training samples", _by_task(profile)),
        Setting("removal cache, one cycle", str(profile.cycle_size)),
        Setting("epochs of original and retraining", str(paper.EPOCHS)),
        Setting("epochs of finetuning", "1"),
        Setting("learning rate", _by_size(profile)),
        Setting("optimiser, batch size", f"AdamW, {BATCH_SIZE}, linear decay", "common practice"),
        Setting("ascent step l", f"raw: {ascent:g}", reason="steps"),
        Setting("ascent step l, Adam", "the learning rate", "in the paper, too, l equals the learning rate"),
        Setting("removal rate gamma", f"{removal:g}", reason="steps"),
        Setting("batches of D- in a cycle", "one", "the paper's run times fit one to five (Figure 2)"),
        Setting("damping lambda", "1"),
        Setting("recursion terms m", profile.words["recursion terms m"]),
        Setting(
            "D+ samples in a term", "8", "with 8, the paper's run times fit about the same number of batches on every task"
        ),
        Setting("block width B", "48, within each tensor, last block padded"),
        Setting("forgetting mu, sigma", "1e-3, 1e-3"),
        Setting("root F^(-1/4)", "by eigenvalues of each block"),
        Setting(
            "exposure references",
            profile.words.get("exposure references", f"{profile.reference_size}, invented judgments"),
        ),
        Setting("test questions", profile.words.get("test questions", str(profile.test_size))),
        Setting(
            paper.METHODS["fisher-removal-calibrated"],
            "blocks of 48, damping 1e-2 of the mean diagonal, 256 terms, length calibrated on held-out texts",
            reason="calibrated step",
        ),
        Setting("seeds", _seeds(profile)),
    ]
    return pd.DataFrame(
        [
            {
                "what": row.what,
                "paper": paper.SETTINGS.get(row.what, ""),
                profile.name: row.here,
                "why": row.why or profile.reasons.get(row.reason or row.what, ""),
            }
            for row in rows
        ]
    )


def _by_task(profile: Profile) -> str:
    sizes = profile.train_sizes
    if len(set(sizes.values())) == 1:
        return str(next(iter(sizes.values())))
    return ", ".join(f"{size} ({paper.TASKS[task]})" for task, size in sizes.items())


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
