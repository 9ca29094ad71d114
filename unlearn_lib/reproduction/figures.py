"""The figures of the notebooks, drawn from tidy tables of run records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from unlearn_lib.plotting import COLOURS, MARKERS, save_figure
from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.scenarios import ORIGINAL
from unlearn_lib.reproduction.store import Record
from unlearn_lib.reproduction.tables import over_seeds, save_table


def save(figure: Any, name: str, folder: Path, data: pd.DataFrame, records: Sequence[Record]) -> list[Path]:
    """A figure's files: `name.png`, `name.svg`, its data as `name.csv`, what it was made from as `name.json`."""
    return [*save_figure(figure, name, folder), save_table(data, name, folder, records)]


def cycles(runs: pd.DataFrame) -> Any:
    """Figure 5: accuracy against the number of removed samples; a row for each task, the paper's curves left, ours right."""
    tasks = list(runs.task.drop_duplicates())
    methods = [method for method in runs.method.drop_duplicates() if method != ORIGINAL]
    ours, theirs = over_seeds(runs, ["accuracy"]), paper.reported("cycles")
    figure, axes = plt.subplots(len(tasks), 2, figsize=(7, 2.6 * len(tasks)), squeeze=False, layout="constrained")
    for row, task in enumerate(tasks):
        left, right = axes[row]
        start = ours[(ours.task == task) & (ours.method == ORIGINAL)].iloc[0]
        for method in methods:
            style = {"color": COLOURS[method], "marker": MARKERS[method], "label": paper.METHODS[method], "markersize": 5}
            printed = theirs[(theirs.task == task) & (theirs.method == method)]
            # the paper has one curve of ascent and does not say which reading it is; it has none of our own method
            if len(printed) and method != "gradient-ascent-adam":
                left.plot(printed.removed, printed.accuracy, linestyle="--", **style)
            mine = ours[(ours.task == task) & (ours.method == method)]
            right.errorbar(
                [0, *mine.removed],
                [start.accuracy_mean, *mine.accuracy_mean],
                yerr=[start.accuracy_sd, *mine.accuracy_sd],
                capsize=2,
                linewidth=1.2,
                **style,
            )
        left.set(
            title=f"{paper.TASKS[task]}, reported (GPT-Neo-125M)", ylabel="accuracy (%)", xticks=sorted(theirs.removed.unique())
        )
        right.set(title=f"{paper.TASKS[task]}, ours (nano/neo-s)", xticks=[0, *sorted(ours.removed.unique())])
        for axis in (left, right):
            chance = paper.CHANCE[task]
            axis.axhline(chance, color="grey", linestyle=":", linewidth=1)
            axis.set_ylim(bottom=0.8 * chance)
            axis.set_xlabel("samples removed")
            if chance:
                axis.annotate(
                    "chance", (1, chance), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="grey", fontsize=8
                )
    handles, labels = axes[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(methods), frameon=False)
    return figure
