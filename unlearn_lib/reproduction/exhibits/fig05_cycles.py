"""Figure 5: utility over consecutive unlearning cycles."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits.cells import cells, printed_number
from unlearn_lib.reproduction.exhibits.frames import over_seeds
from unlearn_lib.reproduction.exhibits.intervals import Interval, interval
from unlearn_lib.reproduction.exhibits.looks import legend_below, style
from unlearn_lib.reproduction.runs.labels import ORIGINAL


def figure(runs: pd.DataFrame) -> Any:
    """Figure 5: accuracy against the number of removed samples; a row for each task, the paper's curves left, this repository's right.

    The bars on the right are the 95 % intervals of the change since before unlearning, which is paired: a run and its original model
    answer the same questions. They stand around the mean accuracy.
    """
    tasks = list(runs.task.drop_duplicates())
    methods = [method for method in runs.method.drop_duplicates() if method != ORIGINAL]
    means, theirs = changes(runs), paper.reported("cycles")
    drawn, axes = plt.subplots(len(tasks), 2, figsize=(7, 2.6 * len(tasks)), squeeze=False, layout="constrained")
    for row, task in enumerate(tasks):
        left, right = axes[row]
        start = runs[(runs.task == task) & (runs.method == ORIGINAL) & (runs.removed == runs.removed.min())].accuracy.mean()
        for number, method in enumerate(methods):
            look = {**style(method), "markersize": 5}
            printed = theirs[(theirs.task == task) & (theirs.method == method)]
            # the paper has one curve of ascent and does not say which reading it is; it has none of the calibrated one
            if len(printed) and method != "gradient-ascent-adam":
                left.plot(printed.removed, printed.accuracy, linestyle="--", **look)
            apart = 1.4 * (number - (len(methods) - 1) / 2)  # so that the intervals can be told from each other
            mine = means[(means.task == task) & (means.method == method)]
            right.errorbar(
                [0, *(mine.removed + apart)],
                [start, *mine.accuracy],
                yerr=[0.0, *mine.half],
                capsize=2,
                linewidth=1.2,
                **look,
            )
        left.set(
            title=f"{paper.TASKS[task]}, reported (GPT-Neo-125M)", ylabel="accuracy (%)", xticks=sorted(theirs.removed.unique())
        )
        right.set(
            title=f"{paper.TASKS[task]}, {paper.HERE} ({runs.profile.iloc[0]}/neo-s)",
            xticks=[0, *sorted(runs.removed.unique())],
        )
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


def changes(runs: pd.DataFrame) -> pd.DataFrame:
    """One row for each task, method and number of removed samples: mean accuracy (percent), and of its paired change since before
    unlearning (points) the mean, `low`, `high` and `half` of the 95 % interval over the seeds."""
    rows = []
    groups = runs[runs.method != ORIGINAL].groupby(["task", "method", "removed"], sort=False)
    for (task, method, removed), group in groups:
        found = interval(group.delta_acc)
        rows.append(
            {
                "task": task,
                "method": method,
                "removed": removed,
                "accuracy": group.accuracy.mean(),
                "change": found.mean,
                "low": found.low,
                "high": found.high,
                "half": (found.high - found.low) / 2,
            }
        )
    return pd.DataFrame(rows)


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Figure 5 as a table: accuracy after every cycle (percent, mean ± sd), its change (mean and 95 % interval), and the paper's."""
    found = over_seeds(runs[runs.method != ORIGINAL], ["accuracy"])
    found = found.assign(paper_removed=found.removed // runs.removed.min() * paper.CYCLE_SIZE)
    found = found.merge(changes(runs)[["task", "method", "removed", "change", "low", "high"]], on=["task", "method", "removed"])
    theirs = paper.reported("cycles").rename(columns={"removed": "paper_removed", "accuracy": "paper_accuracy"})
    keys = ["task", "method", "paper_removed"]
    table = found.merge(theirs[[*keys, "paper_accuracy"]], on=keys, how="left", validate="one_to_one")
    return pd.DataFrame(
        {
            "task": table.task.map(paper.TASKS),
            "method": table.method.map(paper.METHODS),
            "removed (paper)": [f"{a} ({b})" for a, b in zip(table.removed, table.paper_removed, strict=True)],
            f"accuracy, {paper.HERE}": cells(table, "accuracy", 1, sign=False),
            "its change [95 % interval]": [
                Interval(*numbers).text(1) for numbers in zip(table.change, table.low, table.high, strict=True)
            ],
            "accuracy, paper": table.paper_accuracy.map(lambda value: printed_number(value, "{:.1f}")),
        }
    ).set_index(["task", "method", "removed (paper)"])
