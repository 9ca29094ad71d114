"""Figure 5: utility over consecutive unlearning cycles."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits.cells import cells, printed_number
from unlearn_lib.reproduction.exhibits.frames import over_seeds
from unlearn_lib.reproduction.exhibits.looks import legend_below, style
from unlearn_lib.reproduction.runs.labels import ORIGINAL


def figure(runs: pd.DataFrame) -> Any:
    """Figure 5: accuracy against the number of removed samples; a row for each task, the paper's curves left, ours right."""
    tasks = list(runs.task.drop_duplicates())
    methods = [method for method in runs.method.drop_duplicates() if method != ORIGINAL]
    ours, theirs = over_seeds(runs, ["accuracy"]), paper.reported("cycles")
    drawn, axes = plt.subplots(len(tasks), 2, figsize=(7, 2.6 * len(tasks)), squeeze=False, layout="constrained")
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
    legend_below(drawn, axes[0, 1])
    return drawn


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Figure 5 as a table: our accuracy after every cycle (percent, mean ± sd), and the paper's."""
    ours = over_seeds(runs[runs.method != ORIGINAL], ["accuracy", "delta_acc"])
    ours = ours.assign(paper_removed=ours.removed // runs.removed.min() * paper.CYCLE_SIZE)
    theirs = paper.reported("cycles").rename(columns={"removed": "paper_removed", "accuracy": "paper_accuracy"})
    keys = ["task", "method", "paper_removed"]
    table = ours.merge(theirs[[*keys, "paper_accuracy"]], on=keys, how="left", validate="one_to_one")
    return pd.DataFrame(
        {
            "task": table.task.map(paper.TASKS),
            "method": table.method.map(paper.METHODS),
            "removed (paper)": [f"{a} ({b})" for a, b in zip(table.removed, table.paper_removed, strict=True)],
            "accuracy, ours": cells(table, "accuracy", 1, sign=False),
            "ΔACC, ours": cells(table, "delta_acc", 1),
            "accuracy, paper": table.paper_accuracy.map(lambda value: printed_number(value, "{:.1f}")),
        }
    )
