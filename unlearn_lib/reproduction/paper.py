"""The paper's reported numbers, as data. `reported/*.csv` say for each the page and how it was read."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

REPORTED = Path(__file__).parent / "reported"
# The paper has one row of gradient ascent and does not say how it was run, so each of our two readings stands beside it.
METHODS = {
    "retrain": "Retraining",
    "finetune": "Finetuning",
    "gradient-ascent": "Gradient Ascent",
    "gradient-ascent-adam": "Gradient Ascent (Adam)",
    "fisher-removal": "Fisher Removal",
    "fisher-forgetting": "Fisher Forgetting",
}
FAMILIES = {"neo": "GPT-Neo", "opt": "OPT"}
SIZES = {"s": "125M", "m": "1.3B", "l": "2.7B"}
CHANCE = {"arc_easy": 25, "piqa": 50, "mathqa": 20, "lambada": 0}
TASKS = {"arc_easy": "ARC-Easy", "piqa": "PIQA", "mathqa": "MathQA", "lambada": "LAMBADA"}


@cache
def reported(name: str) -> pd.DataFrame:
    """`utility_and_exposure` (Tables 3, 4, 5, 9) or `cycles` (Figure 5).

    Columns of the first: table, page, mark, task, size, method, family, removed, delta_acc (percentage points), delta_exp (the
    paper's unit, which fits nats). Of the second: figure, page, mark, task, method, removed, accuracy (percent). Mark: `seen`
    (printed in the paper), `digitised` (read off a figure, about 0.3 points).
    """
    printed = pd.read_csv(REPORTED / f"{name}.csv")
    adam = printed[printed.method == "gradient-ascent"].assign(method="gradient-ascent-adam")
    return pd.concat([printed, adam], ignore_index=True)
