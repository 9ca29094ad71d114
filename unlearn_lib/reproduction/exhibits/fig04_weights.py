"""Figure 4: histograms of the last layer's weights, from the detail "weights" of run records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from unlearn_lib.plotting import COLOURS
from unlearn_lib.reproduction.exhibits.looks import short_label
from unlearn_lib.reproduction.runs.record import CyclesRecord


def table(records: Sequence[CyclesRecord]) -> pd.DataFrame:
    """One row for each record with the detail "weights": divergence of the histograms by number format, distance of the weights."""
    rows = []
    for record in records:
        found = record["results"]["weights"]
        rows.append(
            {
                "method": record["config"]["method"],
                "seed": record["config"]["seed"],
                **{f"divergence, {name}": value for name, value in found["divergence"].items()},
                "relative distance": found["relative_distance"],
            }
        )
    return pd.DataFrame(rows)


def figure(records: Sequence[CyclesRecord]) -> Any:
    """Figure 4: a panel for each method, its weights' histogram over the retrained model's, on a log scale."""
    drawn, axes = plt.subplots(1, len(records), figsize=(1.9 * len(records), 2.5), sharey=True, layout="constrained")
    for axis, record in zip(axes, records, strict=True):
        found, method = record["results"]["weights"], record["config"]["method"]
        edges = np.linspace(-found["limit"], found["limit"], len(found["counts"]) + 1)
        axis.stairs(found["retrained_counts"], edges, color=COLOURS["retrain"], fill=True, alpha=0.35, label="retrained")
        axis.stairs(found["counts"], edges, color=COLOURS[method], linewidth=1, label="unlearned")
        axis.set(yscale="log", title=short_label(method), xlabel="weight")
    axes[0].set_ylabel("weights in a bin")
    axes[0].legend(frameon=False, fontsize=7, loc="lower center", handlelength=1)
    return drawn
