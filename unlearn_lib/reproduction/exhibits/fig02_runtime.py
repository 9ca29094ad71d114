"""Figure 2: running time."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from unlearn_lib.plotting import COLOURS
from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits.frames import over_seeds
from unlearn_lib.reproduction.exhibits.looks import legend_below
from unlearn_lib.reproduction.runs import profiles
from unlearn_lib.reproduction.runs.labels import ORIGINAL


def figure(runs: pd.DataFrame) -> Any:
    """Figure 2: seconds of one cycle on a log scale; the paper's left, this repository's right."""
    theirs, ours = paper.reported("runtime"), over_seeds(runs[runs.method != ORIGINAL], ["seconds"])
    ours = ours[ours.removed == ours.removed.min()].rename(columns={"seconds_mean": "seconds"})
    methods = [method for method in paper.METHODS if method in set(ours.method)]
    tasks = [task for task in paper.TASKS if task in set(ours.task)]
    drawn, axes = plt.subplots(1, 2, figsize=(7, 2.9), layout="constrained")
    profile = profiles.find(runs.profile.iloc[0])
    where = "one thread" if profile.device == "cpu" else "one GPU"
    titles = ("reported (GPT-Neo-125M)", f"{paper.HERE} ({profile.name}/neo-s, {where})")
    for axis, table, title in zip(axes, (theirs, ours), titles, strict=True):
        shown = [method for method in methods if method in set(table.method) and (table is ours or not method.endswith("adam"))]
        width = 0.8 / len(shown)
        for number, method in enumerate(shown):
            values = [table[(table.task == task) & (table.method == method)].seconds.iloc[0] for task in tasks]
            places = np.arange(len(tasks)) + (number - (len(shown) - 1) / 2) * width
            axis.bar(places, values, width, color=COLOURS[method], label=paper.METHODS[method])
        axis.set(yscale="log", title=title, xticks=range(len(tasks)), xticklabels=[paper.TASKS[task] for task in tasks])
    axes[0].set_ylabel("seconds of one cycle")
    legend_below(drawn, axes[1])
    return drawn
