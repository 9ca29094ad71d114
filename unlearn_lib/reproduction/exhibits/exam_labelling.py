"""Experiment: which texts of a model to label so that its leaks are found (`benchmarks/labelling.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from unlearn_lib.plotting import COLOURS
from unlearn_lib.reproduction.exhibits.saving import of_benchmark

POLICIES = {
    "random": "random",
    "uncertainty": "least certain",
    "diversity": "diverse (k-means)",
    "both": "diverse among the least certain",
    "likely": "most probable leaks",
    "loss": "lowest loss first",
}
"""The policies as figures and tables call them, in their order."""
LOOKS: dict[str, dict[str, Any]] = {
    "random": {"color": "#000000", "marker": "o", "linestyle": "--"},
    "uncertainty": {"color": COLOURS["fisher-removal"], "marker": "D"},
    "diversity": {"color": COLOURS["retrain"], "marker": "s"},
    "both": {"color": COLOURS["fisher-forgetting"], "marker": "^"},
    "likely": {"color": COLOURS["gradient-ascent"], "marker": "v"},
    "loss": {"color": "#777777", "marker": "x", "linestyle": ":"},
}
AUDITORS = ("exact", "noisy", "noisy, reweighted", "demonstrations")
DRAWN = ("exact", "noisy")
MEASURES = {"found": "leaks found, share", "precision": "average precision, new texts"}


def curves(report: Mapping[str, Any]) -> pd.DataFrame:
    """A line for every model, seed, auditor, policy and number of labels, with what is known then."""
    return pd.DataFrame(
        [
            {"model": run["model"], "seed": run["seed"], "auditor": auditor, "policy": policy, **point}
            for run in report["runs"]
            for auditor, policies in run["curves"].items()
            for policy, points in policies.items()
            for point in points
        ]
    ).astype({"labels": int})


def at(lines: pd.DataFrame, labels: int, measure: str) -> pd.DataFrame:
    """The mean over models and seeds of a measure after so many labels: a row for every policy, a column for every auditor."""
    there = lines[lines.labels == labels]
    table = there.pivot_table(index="policy", columns="auditor", values=measure, aggfunc="mean")
    return table.loc[list(POLICIES), [auditor for auditor in AUDITORS if auditor in table]]


def better(lines: pd.DataFrame, auditor: str, labels: int, measure: str, policy: str, other: str = "random") -> int:
    """For how many models the value of a policy is higher than that of another."""
    there = lines[(lines.labels == labels) & (lines.auditor == auditor)]
    table = there.pivot_table(index=["model", "seed"], columns="policy", values=measure)
    return int((table[policy] > table[other]).sum())


def annotators(report: Mapping[str, Any]) -> pd.DataFrame:
    """The mean over models of what every annotator does with k demonstrations: who, choice, k, error, AUC, and the shares of leaks and of
    other texts that it calls what they are."""
    rows = pd.DataFrame([row for run in report["runs"] for row in run["annotators"]])
    return rows.groupby(["who", "choice", "k"], sort=False).mean().reset_index()


def reweighting(report: Mapping[str, Any]) -> pd.DataFrame:
    """The mean over models of what noisy labels are worth beside trusted ones: a row for each number of trusted labels."""
    rows = pd.DataFrame(
        [{"trusted": int(trusted), **row} for run in report["runs"] for trusted, row in run["reweighting"].items()]
    )
    return rows.groupby("trusted").mean()


def pools(report: Mapping[str, Any]) -> pd.DataFrame:
    """What the models wrote, by what they were given: the mean number of texts in a pool, the share that leaks, and the loss."""
    rows = [
        {"beginning": kind, **numbers}
        for run in report["runs"]
        for pool in run["pools"]
        for kind, numbers in pool["by_kind"].items()
    ]
    return pd.DataFrame(rows).groupby("beginning", sort=False).mean()


def figure(lines: pd.DataFrame) -> Any:
    """Leaks found and the classifier's average precision over the labels spent, a column for each kind of labels; means and, for the
    random policy and the most probable leaks, the range over the models."""
    drawn, axes = plt.subplots(2, len(DRAWN), figsize=(6.8, 5.6), sharex=True, sharey="row", layout="constrained")
    for column, auditor in enumerate(DRAWN):
        for row, (measure, name) in enumerate(MEASURES.items()):
            axis = axes[row, column]
            for policy, label in POLICIES.items():
                mine = lines[(lines.auditor == auditor) & (lines.policy == policy)].groupby("labels")[measure]
                middle = mine.mean()
                axis.plot(middle.index, middle, label=label, markersize=4, linewidth=1.2, **LOOKS[policy])
                if policy in ("random", "likely"):
                    axis.fill_between(
                        middle.index, mine.min(), mine.max(), color=LOOKS[policy]["color"], alpha=0.1, linewidth=0
                    )
            axis.set_ylim(bottom=0)
            if not column:
                axis.set_ylabel(name)
        axes[0, column].set_title(f"{auditor} labels")
        axes[1, column].set_xlabel("labels spent")
    drawn.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return drawn


def made_from(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the figure was made from."""
    runs = report["runs"]
    return of_benchmark(
        report, "labelling.json", f"{len(runs)} models, seeds {', '.join(sorted({str(run['seed']) for run in runs}))}"
    )
