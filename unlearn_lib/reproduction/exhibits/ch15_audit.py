"""Chapter 15: what is left of forgotten texts, of the models of the benchmarks of attacks (`benchmarks/attacked.py`, `inference.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from unlearn_lib.plotting import COLOURS

ATTACKS = ("loss", "zlib", "min-k 20 %", "min-k++ 20 %", "reference model", "gradient norm")
OURS = "constrained-newton"
SHORT = {
    "original": "original",
    "twin": "twin (retrained)",
    "gradient, one step": "gradient, one step",
    "fisher-forgetting, blocks of 48": "Fisher Forgetting",
    "gradient-ascent, Adam": "gradient ascent",
    "gradient-difference, NLL, 25 %": "gradient difference, NLL",
    "gradient-difference, KL, 25 %": "gradient difference, KL",
    "npo, with KL term, 25 %": "NPO with KL",
    "simnpo, with KL term, 25 %": "SimNPO with KL",
    "kfac-newton, one step": "K-FAC Newton, one step",
    "fisher-removal, default (K-FAC, 4 steps)": "Fisher Removal, K-FAC",
    "constrained-newton, 10 %": "constrained Newton, 10 %",
    "constrained-newton, 25 %": "constrained Newton, 25 %",
    "constrained-newton, default": "constrained Newton",
}
"""The rows as figures and tables call them, in their order."""


def table(report: Mapping[str, Any]) -> pd.DataFrame:
    """A line for every row of `benchmarks/attacked.json` and model: family, seed, verdict, and its numbers."""
    lines = [
        {"row": SHORT[row], "family": run["family"], "seed": run["seed"], "outcome": run["outcome"], **run["numbers"]}
        for row, entry in report["rows"].items()
        for run in entry["runs"]
    ]
    return pd.DataFrame(lines)


def means(lines: pd.DataFrame) -> pd.DataFrame:
    """The means over the models, in the order of the rows, and how many there are."""
    numbers = lines.drop(columns=["family", "seed", "outcome"]).groupby("row", sort=False)
    return numbers.mean().assign(models=numbers.size())


def verdicts(lines: pd.DataFrame) -> pd.DataFrame:
    """How many models of a row got which verdict."""
    return lines.groupby(["row", "outcome"], sort=False).size().unstack(fill_value=0)


MEASURES = {
    "outside_loss": "loss, texts outside",
    **{f"auc, {name}": f"AUC, {name}" for name in ATTACKS},
    "privleak": "PrivLeak",
    "extraction_strength": "extraction strength",
    "kl_forget": "KL, forgotten texts",
    "kl_outside": "KL, texts outside",
    "relearned": "lowest loss, relearnt",
}
"""What methods are compared by, and how a table calls it."""


def nearest(rows: pd.DataFrame) -> pd.DataFrame:
    """For every measure the method that is nearest to the twin in its mean, both values, and the value of constrained Newton."""
    methods = rows.drop(index=["original", "twin (retrained)"])
    twin = rows.loc["twin (retrained)"]
    found = {name: str((methods[name] - twin[name]).abs().idxmin()) for name in MEASURES}
    return pd.DataFrame(
        {
            "twin": [twin[name] for name in MEASURES],
            "nearest method": list(found.values()),
            "its value": [methods.loc[row, name] for name, row in found.items()],
            "constrained Newton": [methods.loc["constrained Newton", name] for name in MEASURES],
        },
        index=list(MEASURES.values()),
    )


def figure(lines: pd.DataFrame) -> Any:
    """The forget loss that training on the other half of the forgotten texts leads to, a dot for each model; and the retrained one's."""
    rows = [row for row in SHORT.values() if row in set(lines.row) and row != "original"]
    drawn, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    control, known = lines.relearned_control.mean(), lines.forget_loss[lines.row == "original"].mean()
    for place, row in enumerate(rows):
        mine = lines[lines.row == row]
        colour = (
            COLOURS["retrain"]
            if row.startswith("twin")
            else "#000000"
            if row.startswith("constrained")
            else COLOURS["fisher-removal"]
        )
        axis.plot(mine.forget_loss, [place] * len(mine), "o", markerfacecolor="none", color=colour, markersize=5)
        axis.plot(mine.relearned, [place] * len(mine), "o", color=colour, markersize=5)
    axis.axvline(control, color=COLOURS["retrain"], linestyle="--", linewidth=1)
    axis.axvline(known, color="#666666", linestyle=":", linewidth=1)
    axis.annotate("original", (known, -0.9), color="#444444", ha="center", fontsize=8, annotation_clip=False)
    after = "retrained, after the same attack"
    axis.annotate(after, (control, -0.9), color=COLOURS["retrain"], ha="center", fontsize=8, annotation_clip=False)
    axis.set_yticks(range(len(rows)), rows)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.set_xlabel("forget loss; open: before, full: lowest while trained on the other half")
    return drawn


def inference(report: Mapping[str, Any], experiment: str) -> pd.DataFrame:
    """A line for every seed and row of an experiment of `benchmarks/inference.json`, with its numbers."""
    return pd.DataFrame(
        [
            {"row": SHORT.get(row, SHORT.get(f"{row}, 25 %", row)), "seed": int(seed), **numbers}
            for seed, rows in report[experiment]["seeds"].items()
            for row, numbers in rows.items()
        ]
    )


def made_from(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the figure was made from."""
    runs = [run for entry in report["rows"].values() for run in entry["runs"]]
    where = report["environments"][0]
    return {
        "records": "benchmarks/attacked.json",
        "from": f"{len(runs)} records of {len({(run['family'], run['seed']) for run in runs})} models; computed on {where['processor']}, "
        f"torch {where['torch']}, commit {', '.join(sorted({run['commit'] for run in runs}))}",
    }
