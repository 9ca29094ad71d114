"""The paper as data: names, settings, and the reported numbers. `reported/*.csv` say for each the page and how it was read."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

REPORTED = Path(__file__).parent / "reported"
# The paper has one row of gradient ascent and does not say how it was run, so each of two readings stands beside it. It has
# no row of the calibrated methods, which are this repository's.
METHODS = {
    "retrain": "Retraining",
    "finetune": "Finetuning",
    "gradient-ascent": "Gradient Ascent",
    "gradient-ascent-adam": "Gradient Ascent (Adam)",
    "fisher-removal": "Fisher Removal",
    "fisher-forgetting": "Fisher Forgetting",
    "fisher-removal-calibrated": "Fisher Removal, calibrated, one step",
    "original": "before unlearning",
    "dp-sgd": "DP-SGD",
    "unseen": "texts never seen",
}
CASE_METHODS = METHODS | {"fisher-removal-calibrated": "Fisher Removal, calibrated, four steps"}
"""The names in the case studies, whose calibrated method takes four steps (`runs.case_grids.options`)."""
HERE = "this repository"
"""The head of a column of this repository's runs, beside one of the paper's numbers."""
FAMILIES = {"neo": "GPT-Neo", "opt": "OPT"}
SIZES = {"s": "125M", "m": "1.3B", "l": "2.7B"}
"""The paper's models of each size, which those here stand for."""
SIZE_NAMES = {"s": "small", "m": "medium", "l": "large"}
CHANCE = {"arc_easy": 25, "piqa": 50, "mathqa": 20, "lambada": 0}
TASKS = {
    "arc_easy": "ARC-Easy",
    "piqa": "PIQA",
    "mathqa": "MathQA",
    "lambada": "LAMBADA",
    "medical": "Medical",
    "email": "Email",
}

QUESTIONS = {"arc_easy": 2376, "piqa": 1838, "mathqa": 2985, "lambada": 5153}
"""Test questions of each task (p. 5)."""
ACCURACIES = {"arc_easy": 50.0, "piqa": 50.0, "mathqa": 25.0, "lambada": 40.0}
"""About how many percent of the questions the original models answer, rounded."""
CYCLE_SIZE = 128
"""Samples that are removed in one cycle (p. 5)."""
REFERENCES = 1000
"""Reference texts of an exposure, |S| (p. 5)."""
CUTOFF = 6.0
"""The exposure in nats from which on a sample has rank 1 or 2 among the references (Figures 6 and 7)."""
EPOCHS = 5
"""Epochs of retraining."""
ASCENT_STEP, REMOVAL_STEP = 5e-5, 2.5e-4
"""The learning rate l of gradient ascent, which is that of fine-tuning too, and the removal rate gamma of Fisher Removal."""
SWEPT = {
    "gradient-ascent": (1e-5, (1, 2, 3, 5, 7)),
    "fisher-removal": (1e-4, (1, 1.5, 2, 2.5, 3, 4)),
    "fisher-forgetting": (1e-3, (1, 2, 3, 5, 7)),
}
"""The strengths of Figure 3: a unit, and how many of it. They are l, gamma and sigma."""
EPSILONS = (0.1, 1.0, 10.0, 100.0, 1000.0)
"""The privacy budgets of DP-SGD in Figure 3."""
WEIGHTS, BINS = 768 * 3072, 40_000
"""Weights in a histogram of Figure 4, and its bins."""
SMALLEST, WIDTH = 125e6, 48
"""Weights of the smallest models, and the width B of the blocks (p. 4)."""
SETTINGS = {
    "models": "GPT-Neo and OPT, 125M to 2.7B",
    "training samples": "2251 (ARC) to 29837 (MathQA)",
    "removal cache, one cycle": str(CYCLE_SIZE),
    "epochs of original and retraining": "not stated; 5",
    "epochs of finetuning": "1",
    "learning rate": "5e-5",
    "optimiser, batch size": "not stated",
    "ascent step l": "5e-5; raw or Adam not stated",
    "removal rate gamma": "2.5e-4",
    "batches of D- in a cycle": "not stated",
    "damping lambda": "1",
    "recursion terms m": "at most 1024",
    "D+ samples in a term": "not stated",
    "block width B": "48, cut not stated",
    "forgetting mu, sigma": "1e-3, 1e-3",
    "root F^(-1/4)": "not stated",
    "exposure references": "1000, ECHR judgments",
    "test questions": "2376 (ARC)",
    "seeds": "not stated",
}
"""What the paper says of its settings, by row of the settings table."""


def model_name(family: str, size: str) -> str:
    """A model's name in tables and sentences, as in `small GPT-Neo`."""
    return f"{SIZE_NAMES[size]} {FAMILIES[family]}"


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
