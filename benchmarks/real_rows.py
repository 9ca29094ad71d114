"""The rows of the table in real.py: methods with their options, and the ladders that tuning chooses from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tuning
from real_texts import Setting
from tuning import Ladder

SEEDS, TUNING_SEED = (0, 1, 2), 1000
MATCHED = {"retain_limit": None}
RATE = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4)
HELD = {"stop": "calibrate", "epochs": 40, "forget_batch_size": 10, "retain_batch_size": 20, **MATCHED}
ASCENT = {"stop": "calibrate", "epochs": 60, "forget_batch_size": 10, **MATCHED}
CALIBRATED = {"step": "calibrate", "steps": 1, **MATCHED}


@dataclass(frozen=True)
class Row(tuning.Row):
    """One line of the table, with the rank of an adapter and its seeds."""

    adapter: int = 0
    seeds: tuple[int, ...] = SEEDS


def held(label: str, method: str, adapter: int = 0, **options: Any) -> Row:
    """A first-order method with a retain term, its rate tuned."""
    start = 3e-4 if adapter else 3e-5
    return Row(label, method, {**HELD, **options}, {"learning_rate": Ladder((*RATE, 1e-3, 3e-3), start)}, adapter)


def constrained(label: str, share: float | None = None) -> Row:
    """Constrained Newton; within a share of retraining's cost where one is given."""
    budget = {} if share is None else {"budget": share * Setting().retraining}
    return Row(f"constrained-newton, {label}", "constrained-newton", {**budget, **MATCHED})


ROWS: tuple[Row, ...] = (
    constrained("default"),
    constrained("20 %", 0.2),
    constrained("30 %", 0.3),
    constrained("50 %", 0.5),
    Row("constrained-newton, LoRA of rank 8", "constrained-newton", MATCHED, adapter=8),
    held("gradient-difference, KL", "gradient-difference", retain_loss="kl", retain_weight=10.0),
    held("gradient-difference, NLL", "gradient-difference", retain_weight=3.0),
    held("npo, with KL term", "npo", retain_loss="kl", retain_weight=30.0, beta=0.1),
    held("simnpo, with KL term", "simnpo", retain_loss="kl", retain_weight=0.3, beta=2.5),
    held("gradient-difference, KL, LoRA of rank 8", "gradient-difference", adapter=8, retain_loss="kl", retain_weight=10.0),
    Row("gradient-ascent, Adam", "gradient-ascent", {**ASCENT, "optimizer": "adam"}, {"step": Ladder(RATE, 1e-5)}),
    Row(
        "gradient-ascent, Adam, LoRA of rank 8",
        "gradient-ascent",
        {**ASCENT, "optimizer": "adam"},
        {"step": Ladder((*RATE, 1e-3), 1e-4)},
        adapter=8,
    ),
    Row("gradient, one step", "fisher-removal", {"solver": "identity", **CALIBRATED}),
    Row("kfac-newton, one step", "kfac-newton", CALIBRATED),
    Row("fisher-removal, default (K-FAC, 4 steps)", "fisher-removal", MATCHED),
    Row(
        "fisher-removal, paper (damping 1), one step",
        "fisher-removal",
        {"preset": "paper", "passes": 4, **CALIBRATED},
        seeds=(0,),
    ),
    Row(
        "fisher-forgetting, blocks of 48",
        "fisher-forgetting",
        {"step": "calibrate", "relative_damping": 1e-2, "passes": 4, **MATCHED},
        seeds=(0,),
    ),
)
"""Those that need most memory come last, and on one draw only."""


def shared(label: str, share: float) -> Row:
    """Constrained Newton within a share of what retraining on the retained texts that it is given costs."""
    options = {"budget": share, "retraining_epochs": Setting().training.epochs, **MATCHED}
    return Row(f"constrained-newton, {label}", "constrained-newton", options)


FEWER: tuple[Row, ...] = (
    shared("30 %", 0.3),
    shared("50 %", 0.5),
    Row(
        "gradient-difference, KL",
        "gradient-difference",
        {**HELD, "retain_loss": "kl", "retain_weight": 10.0, "learning_rate": 3e-5},
    ),
    Row("npo, with KL term", "npo", {**HELD, "retain_loss": "kl", "retain_weight": 30.0, "beta": 0.1, "learning_rate": 1e-4}),
    Row("gradient, one step", "fisher-removal", {"solver": "identity", **CALIBRATED}),
    Row("kfac-newton, one step", "kfac-newton", CALIBRATED),
)
"""The rows of other tasks than ten of TOFU's authors; learning rates are those that were tuned there."""


def rows_of(setting: Setting) -> tuple[Row, ...]:
    """The rows of the table of a setting."""
    return FEWER if setting.split or setting.task != "tofu" else ROWS
