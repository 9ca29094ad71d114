"""The figures of the notebooks, drawn from tidy tables of run records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from unlearn_lib.plotting import COLOURS, MARKERS, save_figure
from unlearn_lib.reproduction import paper, profiles
from unlearn_lib.reproduction.scenarios import ORIGINAL
from unlearn_lib.reproduction.store import Record
from unlearn_lib.reproduction.tables import over_seeds, save_table


def save(figure: Any, name: str, folder: Path, data: pd.DataFrame, records: Sequence[Record]) -> list[Path]:
    """A figure's files: `name.png`, `name.svg`, its data as `name.csv`, what it was made from as `name.json`."""
    return [*save_figure(figure, name, folder), save_table(data, name, folder, records)]


def style(method: str) -> dict[str, Any]:
    """Colour, marker and label of a method."""
    return {"color": COLOURS[method], "marker": MARKERS[method], "label": paper.METHODS[method]}


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
            look = {**style(method), "markersize": 5}
            printed = theirs[(theirs.task == task) & (theirs.method == method)]
            # the paper has one curve of ascent and does not say which reading it is; it has none of our own method
            if len(printed) and method != "gradient-ascent-adam":
                left.plot(printed.removed, printed.accuracy, linestyle="--", **look)
            mine = ours[(ours.task == task) & (ours.method == method)]
            right.errorbar(
                [0, *mine.removed],
                [start.accuracy_mean, *mine.accuracy_mean],
                yerr=[start.accuracy_sd, *mine.accuracy_sd],
                capsize=2,
                linewidth=1.2,
                **look,
            )
        left.set(
            title=f"{paper.TASKS[task]}, reported (GPT-Neo-125M)", ylabel="accuracy (%)", xticks=sorted(theirs.removed.unique())
        )
        right.set(title=f"{paper.TASKS[task]}, ours ({runs.profile.iloc[0]}/neo-s)", xticks=[0, *sorted(ours.removed.unique())])
        for axis in (left, right):
            chance = paper.CHANCE[task]
            axis.axhline(chance, color="grey", linestyle=":", linewidth=1)
            axis.set_ylim(bottom=0.8 * chance)
            axis.set_xlabel("samples removed")
            if chance:
                axis.annotate(
                    "chance", (1, chance), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="grey", fontsize=8
                )
    _legend_below(figure, axes[0, 1])
    return figure


def runtime(runs: pd.DataFrame) -> Any:
    """Figure 2: seconds of one cycle on a log scale; the paper's left, ours right."""
    theirs, ours = paper.reported("runtime"), over_seeds(runs[runs.method != ORIGINAL], ["seconds"])
    ours = ours[ours.removed == ours.removed.min()].rename(columns={"seconds_mean": "seconds"})
    methods = [method for method in paper.METHODS if method in set(ours.method)]
    tasks = [task for task in paper.TASKS if task in set(ours.task)]
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.9), layout="constrained")
    profile = profiles.find(runs.profile.iloc[0])
    where = "one thread" if profile.device == "cpu" else "one GPU"
    titles = ("reported (GPT-Neo-125M)", f"ours ({profile.name}/neo-s, {where})")
    for axis, table, title in zip(axes, (theirs, ours), titles, strict=True):
        shown = [method for method in methods if method in set(table.method) and (table is ours or not method.endswith("adam"))]
        width = 0.8 / len(shown)
        for number, method in enumerate(shown):
            values = [table[(table.task == task) & (table.method == method)].seconds.iloc[0] for task in tasks]
            places = np.arange(len(tasks)) + (number - (len(shown) - 1) / 2) * width
            axis.bar(places, values, width, color=COLOURS[method], label=paper.METHODS[method])
        axis.set(yscale="log", title=title, xticks=range(len(tasks)), xticklabels=[paper.TASKS[task] for task in tasks])
    axes[0].set_ylabel("seconds of one cycle")
    _legend_below(figure, axes[1])
    return figure


def _legend_below(figure: Any, axis: Any) -> None:
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
