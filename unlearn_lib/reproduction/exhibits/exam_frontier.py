"""Examination: what each method does to other texts at what cost, all of them at the same forgetting (`benchmarks/methods.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from unlearn_lib.plotting import COLOURS, MARKERS

OURS = "constrained Newton"
WITH_WRITTEN = "with written texts"
LINES = {
    "constrained-newton": OURS,
    "gradient-difference, KL": "gradient difference, KL",
    "gradient-difference, NLL": "gradient difference, NLL",
    "npo, with KL term": "NPO with a KL term",
    "simnpo, with KL term": "SimNPO with a KL term",
}
"""Methods that were run within several budgets, by how the labels of their rows begin."""
POINTS = {
    "fisher-removal, default (K-FAC, 4 steps)": "Fisher Removal, 4 steps",
    "fisher-removal, blocks of 48, 4 steps": "Fisher Removal, 4 steps",
    "fisher-removal, blocks of 48, one step": "Fisher Removal, one step",
    "fisher-removal, diagonal, one step": "Fisher Removal, one step",
    "fisher-removal, paper (damping 1), one step": "Fisher Removal, one step",
    "gradient, one step": "the gradient, one step",
    "fine-tuning, one epoch": "fine-tuning (forgets little)",
}
"""Other rows that are drawn."""
FIRST_ORDER = tuple(name for name in LINES.values() if name != OURS)
LOOKS: dict[str, dict[str, Any]] = {
    OURS: {"color": "#000000", "marker": "H", "linewidth": 2.0, "zorder": 4},
    "gradient difference, KL": {"color": COLOURS["gradient-difference"], "marker": MARKERS["gradient-difference"]},
    "gradient difference, NLL": {"color": COLOURS["gradient-ascent-adam"], "marker": ">", "linestyle": ":"},
    "NPO with a KL term": {"color": COLOURS["finetune"], "marker": MARKERS["npo"], "linestyle": "--"},
    "SimNPO with a KL term": {"color": COLOURS["retrain"], "marker": MARKERS["simnpo"], "linestyle": "-."},
    "Fisher Removal, 4 steps": {"color": COLOURS["fisher-removal"], "marker": MARKERS["fisher-removal"]},
    "Fisher Removal, one step": {"color": COLOURS["fisher-removal"], "marker": "d", "markerfacecolor": "none"},
    "the gradient, one step": {"color": COLOURS["gradient-ascent"], "marker": MARKERS["gradient-ascent"]},
    "fine-tuning (forgets little)": {"color": COLOURS["fisher-forgetting"], "marker": MARKERS["finetune"]},
}
NAMES = {
    "original": "the original model",
    "constrained-newton": OURS,
    "certified-newton": "certified Newton",
    "kfac-newton": "K-FAC Newton",
    "woodbury-newton (no retain data)": "Woodbury Newton, no retained texts",
    "newton (CG on Gauss-Newton, 32 texts)": "Newton by conjugate gradients on the Gauss-Newton matrix of 32 texts",
    "fisher-removal, paper (damping 1)": "Fisher Removal, the paper's damping and blocks",
    "fisher-removal, woodbury (full matrix)": "Fisher Removal, the full matrix by Woodbury",
    "fisher-removal": "Fisher Removal",
    "fisher-forgetting": "Fisher Forgetting",
    "gradient-difference": "gradient difference",
    "gradient-ascent": "gradient ascent",
    "simnpo": "SimNPO",
    "npo": "NPO",
    "wga": "WGA",
    "undial (no retain data)": "UNDIAL, no retained texts",
    "undial": "UNDIAL",
    "dpo": "DPO",
    "rmu": "RMU",
    "memflex": "MemFlex",
    "sophia": "Sophia",
    "task-vector (no retain data)": "task vector, no retained texts",
    "eul": "EUL",
    "sisa": "SISA",
}
"""What a row is called, by how its label begins; of several that fit, the first."""
MEASURES = ("damage_ratio", "used_damage_ratio", "forget_loss", "forget_kl", "retain_kl", "holdout_kl")
DISTANCES = {"forget_kl": "forgotten texts", "retain_kl": "retained texts outside", "holdout_kl": "held-out texts"}
FAMILIES = {"neo": "nano/neo-m", "opt": "nano/opt-m"}
LARGE = {"neo": "nano/neo-l", "opt": "nano/opt-l"}


def table(report: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of `benchmarks/methods.json`: method, family, budget, cost as a share of retraining, and of every measure the mean
    over the seeds (its name), the lowest and the highest (`_low`, `_high`)."""
    found = []
    for label, families in report["rows"].items():
        for family, entry in families.items():
            seeds = pd.DataFrame(entry["seeds"])
            row: dict[str, Any] = {"row": label, "family": family, "method": _method(label), "budget": _budget(label)}
            row |= {"written": bool(entry["options"].get("written")), "q": entry["options"].get("q"), "seeds": len(seeds)}
            row["share"] = seeds.cost.mean() / retraining(report) if "cost" in seeds else np.nan
            for measure in MEASURES:
                values = seeds[measure]
                row |= {measure: values.mean(), f"{measure}_low": values.min(), f"{measure}_high": values.max()}
            found.append(row)
    return pd.DataFrame(found)


def readable(label: str) -> str:
    """The name of a row of the benchmark, as in `constrained Newton, 10 %` for `constrained-newton, 10 %`."""
    for start, name in NAMES.items():
        if label.startswith(start):
            return name + label.removeprefix(start)
    return label


def retraining(report: Mapping[str, Any]) -> int:
    """What retraining costs, in gradients of single texts: epochs times retained texts."""
    setting = report["setting"]
    return int(setting["training"]["epochs"] * (setting["train"] - setting["forget"]))


def frontier(rows: pd.DataFrame, family: str, written: bool = True) -> pd.DataFrame:
    """Constrained Newton within its budgets, dearer ones further down: with written texts where there is such a row, or without."""
    mine = rows[(rows.method == OURS) & (rows.family == family) & rows.budget.notna() & rows.q.isna()]
    mine = mine if written else mine[~mine.written.astype(bool)]
    return mine.sort_values("written").drop_duplicates("budget", keep="last").sort_values("share")


def frontier_damage(rows: pd.DataFrame, family: str, share: float, written: bool = True) -> float:
    """The damage of `frontier` at a cost: straight between its points where both axes are logarithmic, flat beyond its ends."""
    points = frontier(rows, family, written)
    return float(np.exp(np.interp(np.log(share), np.log(points.share), np.log(points.damage_ratio))))


def figure(rows: pd.DataFrame, names: Mapping[str, str] = FAMILIES) -> Any:
    """Damage on retained texts that no method was given, over the cost, a panel for each family, with the name of its model; means and
    ranges over the seeds. Constrained Newton's points are open where the model wrote further texts to retain, some of which are
    outside texts word for word."""
    drawn, axes = plt.subplots(1, 2, figsize=(6.4, 4.3), sharey=True, layout="constrained")
    for axis, (family, name) in zip(axes, names.items(), strict=True):
        for method, mine in _series(rows, family):
            bars = [mine.damage_ratio - mine.damage_ratio_low, mine.damage_ratio_high - mine.damage_ratio]
            axis.errorbar(mine.share, mine.damage_ratio, bars, label=method, **_look(method))
        own = rows[(rows.method == OURS) & (rows.family == family) & rows.budget.notna() & rows.q.isna()]
        for written, inside in ((True, "white"), (False, LOOKS[OURS]["color"])):
            look = _look(OURS) | {"linestyle": "none", "zorder": 5, "markerfacecolor": inside}
            part = own[(own.written == written) & own.budget.isin(own.budget[own.written])]
            axis.errorbar(part.share, part.damage_ratio, label=f"{OURS}, {WITH_WRITTEN}" if written else None, **look)
        axis.axvline(1, color="grey", linewidth=1, linestyle=":")
        axis.annotate("retraining", (0.96, 0.3), rotation=90, ha="right", va="bottom", color="#555555", fontsize=8)
        _costs(axis)
        axis.set(yscale="log", title=name)
    axes[0].set_ylabel("damage ratio, retained texts outside")
    axes[0].set_yticks([0.003, 0.01, 0.03, 0.1, 0.3, 1], ["0.003", "0.01", "0.03", "0.1", "0.3", "1"])
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return drawn


def distances_figure(rows: pd.DataFrame) -> Any:
    """The divergence from the retrained model over the cost, a column for each set of texts; dashed: the original's."""
    drawn, axes = plt.subplots(2, 3, figsize=(7, 5), sharex=True, layout="constrained")
    for line, (family, name) in zip(axes, FAMILIES.items(), strict=True):
        original = rows[(rows.row == "original") & (rows.family == family)].iloc[0]
        for axis, (measure, texts) in zip(line, DISTANCES.items(), strict=True):
            for method, mine in _series(rows, family):
                if method in LINES.values():
                    bars = [mine[measure] - mine[f"{measure}_low"], mine[f"{measure}_high"] - mine[measure]]
                    axis.errorbar(mine.share, mine[measure], bars, label=method, **_look(method))
            axis.axhline(original[measure], color="black", linestyle="--", linewidth=1, label="the original model")
            _costs(axis)
            axis.set_ylim(bottom=0)
            axis.set(title=texts if family == "neo" else "", xlabel="" if family == "neo" else axis.get_xlabel())
        line[0].set_ylabel(f"{name}\nKL to retraining (nats)")
    drawn.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return drawn


def made_from(report: Mapping[str, Any], file: str = "methods.json") -> dict[str, Any]:
    """What the figures were made from: the file in `benchmarks/`, its processors and commits, and how many seeds."""
    runs = [run for families in report["rows"].values() for entry in families.values() for run in entry["seeds"]]
    where = [f"{there['processor']}, torch {there['torch']}" for there in report["environments"]]
    seeds = {len(entry["seeds"]) for families in report["rows"].values() for entry in families.values()}
    return {
        "records": f"benchmarks/{file}",
        "from": f"{len(runs)} records, {'or'.join(map(str, sorted(seeds)))} seeds of each row; computed on {'; '.join(where)}, "
        f"commits {', '.join(sorted({run['commit'] for run in runs}))}",
    }


def _method(label: str) -> str:
    for start, method in LINES.items():
        if label.startswith(start):
            return method
    return POINTS.get(label, label)


def _budget(label: str) -> float | None:
    """The share of retraining that a row was given, as its label says; None where it was given none."""
    shares = [part for part in label.split(", ") if part.endswith(" %")]
    return float(shares[0].removesuffix(" %")) / 100 if shares else None


def _series(rows: pd.DataFrame, family: str) -> list[tuple[str, pd.DataFrame]]:
    """Every method that is drawn with its rows, cheap ones first."""
    found = [(OURS, frontier(rows, family))]
    for method in LOOKS:
        if method != OURS:
            mine = rows[(rows.family == family) & (rows.method == method)]
            found.append((method, mine.sort_values("share")))
    return [(method, mine) for method, mine in found if len(mine)]


def _look(method: str) -> dict[str, Any]:
    line: dict[str, Any] = {} if method in LINES.values() else {"linestyle": "none"}
    return {"capsize": 2, "markersize": 6, "linewidth": 1.2, "elinewidth": 0.8, **line, **LOOKS[method]}


def _costs(axis: Any) -> None:
    axis.set(xscale="log", xlim=(0.02, 1.25), xlabel="cost, % of retraining")
    axis.set_xticks([0.025, 0.05, 0.1, 0.25, 0.5, 1], ["2.5", "5", "10", "25", "50", "100"])
    axis.minorticks_off()
