"""Chapter 14: a real language model that learnt TOFU's authors and forgets one (`benchmarks/real.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from unlearn_lib.plotting import COLOURS, MARKERS

OURS = "constrained Newton"
LOOKS: dict[str, dict[str, Any]] = {
    "constrained-newton, LoRA": {
        "label": "constrained Newton, adapter",
        "marker": "h",
        "markerfacecolor": "none",
        "color": "#000000",
    },
    "constrained-newton": {"label": OURS, "marker": "H", "color": "#000000"},
    "gradient-difference, KL, LoRA": {
        "label": "gradient difference, KL, adapter",
        "marker": MARKERS["gradient-difference"],
        "color": COLOURS["gradient-difference"],
        "markerfacecolor": "none",
    },
    "gradient-difference, KL": {
        "label": "gradient difference, KL",
        "marker": MARKERS["gradient-difference"],
        "color": COLOURS["gradient-difference"],
    },
    "gradient-difference, NLL": {"label": "gradient difference, NLL", "marker": ">", "color": COLOURS["gradient-ascent-adam"]},
    "npo": {"label": "NPO with a KL term", "marker": MARKERS["npo"], "color": COLOURS["finetune"]},
    "simnpo": {"label": "SimNPO with a KL term", "marker": MARKERS["simnpo"], "color": COLOURS["retrain"]},
    "kfac-newton": {"label": "one step of K-FAC Newton", "marker": "d", "color": COLOURS["fisher-removal"]},
    "gradient-ascent, Adam, LoRA": {
        "label": "gradient ascent, adapter",
        "marker": "v",
        "color": COLOURS["gradient-ascent"],
        "markerfacecolor": "none",
    },
    "gradient-ascent, Adam": {"label": "gradient ascent", "marker": "v", "color": COLOURS["gradient-ascent"]},
    "fisher-removal, paper": {
        "label": "Fisher Removal, the paper's setting",
        "marker": "s",
        "color": COLOURS["fisher-removal"],
    },
    "fisher-removal, default": {"label": "Fisher Removal, K-FAC", "marker": "D", "color": COLOURS["fisher-removal-calibrated"]},
    "fisher-forgetting": {
        "label": "Fisher Forgetting",
        "marker": MARKERS["fisher-forgetting"],
        "color": COLOURS["fisher-forgetting"],
    },
    "gradient, one step": {"label": "the gradient, one step", "marker": MARKERS["gradient-ascent"], "color": "#666666"},
}
"""How rows are drawn, by how their labels begin, the longer beginnings first."""
LEVELS = (
    "forget_kl",
    "retain_kl",
    "attack_auc",
    "extraction_strength",
    "forget_probability",
    "retain_probability",
    "world_facts",
    "prose_loss",
)
"""Measures that differ between the draws of authors, so that rows of different draws are compared beside the original of each draw."""
LINEAR = 1e-3
"""Below this damage the axis is linear: some damages are zero or negative."""


def table(report: Mapping[str, Any]) -> pd.DataFrame:
    """A line for every row of `benchmarks/real.json` and draw of authors: its measures, and the cost as a share of retraining."""
    lines = [
        {"row": label, **{name: value for name, value in run.items() if name != "answers"}}
        for label, entry in report["rows"].items()
        for run in entry["seeds"]
    ]
    found = pd.DataFrame(lines)
    found["share"] = found.cost / report["retraining"]
    return found


def beside_the_original(lines: pd.DataFrame) -> pd.DataFrame:
    """The lines with `LEVELS` as differences to the original model of the same draw."""
    original = lines[lines.row == "original"].set_index("seed")[list(LEVELS)]
    return lines.assign(**{name: lines[name] - lines.seed.map(original[name]) for name in LEVELS})


def means(lines: pd.DataFrame) -> pd.DataFrame:
    """The means over the draws, and how many there are, in the rows' order."""
    numbers = lines.drop(columns=["commit", "refused", "machine"], errors="ignore").groupby("row", sort=False)
    return numbers.mean(numeric_only=True).drop(columns="seed").assign(draws=numbers.size())


def answers(report: Mapping[str, Any], rows: tuple[str, ...]) -> pd.DataFrame:
    """What models answer to three questions on the forgotten author and three on one that no method saw, of the draw that has them."""
    told = {label: next(run["answers"] for run in report["rows"][label]["seeds"] if "answers" in run) for label in rows}
    about = [f"{who}, question {n}" for who in ("forgotten author", "author outside") for n in (1, 2, 3)]
    return pd.DataFrame(told, index=about)


def figure(lines: pd.DataFrame) -> Any:
    """Damage on authors that no method was given, over the cost; a mark for each draw of authors."""
    drawn, axis = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
    for start, look in LOOKS.items():
        mine = lines[[_look(row) == start for row in lines.row]].sort_values("share")
        if not mine.empty:
            axis.plot(mine.share, mine.damage_ratio, linestyle="none", markersize=7, **look)
    axis.axvline(1, color="grey", linewidth=1, linestyle=":")
    axis.axhline(0, color="grey", linewidth=0.8)
    axis.annotate("retraining", (0.96, 0.3), rotation=90, ha="right", va="center", color="#555555", fontsize=8)
    axis.set_yscale("symlog", linthresh=LINEAR)
    axis.set_yticks([-1e-3, 0, 1e-3, 1e-2, 1e-1, 1], ["−0.001", "0", "0.001", "0.01", "0.1", "1"])
    axis.set(xscale="log", xlim=(0.06, 3.2), ylim=(-2e-3, 2.0), xlabel="cost, % of retraining")
    axis.set_ylabel("damage ratio, authors outside")
    axis.set_xticks([0.1, 0.2, 0.3, 0.5, 1, 2], ["10", "20", "30", "50", "100", "200"])
    axis.minorticks_off()
    drawn.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    return drawn


def made_from(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the figure was made from."""
    runs = [run for entry in report["rows"].values() for run in entry["seeds"]]
    where = report["environment"]
    elsewhere = [run["machine"] for run in runs if "machine" in run]
    others = f" ({len(elsewhere)} of them on {', '.join(sorted(set(elsewhere)))})" if elsewhere else ""
    return {
        "records": "benchmarks/real.json",
        "from": f"{len(runs)} records of at most three draws of authors; computed on {where['device']}{others}, torch {where['torch']}, "
        f"commit {', '.join(sorted({run['commit'] for run in runs}))}",
    }


def _look(row: str) -> str | None:
    return next((start for start in LOOKS if row.startswith(start)), None)
