"""The paper's reported numbers, as data. `reported/*.csv` say for each the page and how it was read."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

REPORTED = Path(__file__).parent / "reported"
# The paper has one row of gradient ascent and does not say how it was run, so each of our two readings stands beside it. It has
# no row of our calibrated second-order method.
METHODS = {
    "retrain": "Retraining",
    "finetune": "Finetuning",
    "gradient-ascent": "Gradient Ascent",
    "gradient-ascent-adam": "Gradient Ascent (Adam)",
    "fisher-removal": "Fisher Removal",
    "fisher-forgetting": "Fisher Forgetting",
    "fisher-removal-calibrated": "Fisher Removal, calibrated (ours)",
    "original": "before unlearning",
    "dp-sgd": "DP-SGD",
    "unseen": "texts never seen",
}
FAMILIES = {"neo": "GPT-Neo", "opt": "OPT"}
SIZES = {"s": "125M", "m": "1.3B", "l": "2.7B"}
CHANCE = {"arc_easy": 25, "piqa": 50, "mathqa": 20, "lambada": 0}
TASKS = {
    "arc_easy": "ARC-Easy",
    "piqa": "PIQA",
    "mathqa": "MathQA",
    "lambada": "LAMBADA",
    "medical": "Medical",
    "email": "Email",
}


@cache
def printed(name: str) -> pd.DataFrame:
    """A table or figure of the paper as printed: the rows of `reported/NAME.csv`.

    Every row has a page and a mark: `seen` (printed in the paper), `digitised` (read off a figure: about 0.3 accuracy points,
    0.02 of exposure), `inferred` (follows from others).

        utility_and_exposure  Tables 3, 4, 5, 9: task, size, method, family, removed, delta_acc (points), delta_exp (fits nats)
        ranks                 Table 7: method, family, measure, mean, sd
        case_studies          Table 8: task, family, method, memorised, seconds
        comparison            Table 2: properties of the approaches
        complexity            Table 6: method, time (t = |D-|, r = |D+|, m = terms)
        runtime               Figure 2: task, method, seconds
        tradeoff              Figure 3: task, method, exposure_drop, accuracy (percent), in the order of the curve
        weight_divergence     Figure 4: method, divergence
        cycles                Figure 5: task, method, removed, accuracy (percent)
        exposure_histogram    Figures 6, 7: state, low, high, count
        exposure_summary      Figure 7: method, mean, above_6
    """
    return pd.read_csv(REPORTED / f"{name}.csv", encoding="utf-8")


def reported(name: str) -> pd.DataFrame:
    """`printed`, with the row of gradient ascent once more for ascent through Adam: the paper does not say how ascent was run."""
    table = printed(name)
    adam = table[table.method == "gradient-ascent"].assign(method="gradient-ascent-adam")
    return pd.concat([table, adam], ignore_index=True)
