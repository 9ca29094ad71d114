"""Figure 7: histograms of exposure, from the detail "exposures" of run records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from unlearn_lib.plotting import COLOURS
from unlearn_lib.reproduction.exhibits.exposures import cutoff, printed_bars
from unlearn_lib.reproduction.exhibits.looks import short_label
from unlearn_lib.reproduction.runs.labels import ORIGINAL
from unlearn_lib.reproduction.runs.record import CyclesRecord


def table(records: Sequence[CyclesRecord]) -> pd.DataFrame:
    """One row for each record with the detail "exposures": over all training samples that were kept, and over the forgotten ones,
    the mean exposure (nats) and the share at rank 1 or 2."""
    rows = []
    for record in records:
        found = record["results"]
        values = np.array(found["exposures"])
        forgotten = np.isin(np.arange(len(values)), found["forgotten"])
        limit = cutoff(record)
        rows.append(
            {
                "method": record["config"]["method"],
                "seed": record["config"]["seed"],
                "mean, all": values.mean(),
                "mean, retained": values[~forgotten].mean(),
                "mean, forgotten": values[forgotten].mean(),
                "rank 1 or 2, all (%)": 100 * (values >= limit).mean(),
                "rank 1 or 2, forgotten (%)": 100 * (values[forgotten] >= limit).mean(),
            }
        )
    return pd.DataFrame(rows)


def figure(records: Sequence[CyclesRecord]) -> Any:
    """Figure 7: the exposure of the training samples before (filled) and after each method, pooled over the seeds; in the first
    panel the paper's own histograms, before and after retraining."""
    methods = [m for m in dict.fromkeys(record["config"]["method"] for record in records) if m != ORIGINAL]
    columns = 4
    drawn, axes = plt.subplots(-(-(len(methods) + 1) // columns), columns, figsize=(7.4, 3.8), layout="constrained")
    flat = list(axes.flat)
    printed_bars(flat[0], ("before", "retrain"), share=True)
    flat[0].set(title="reported\n(GPT-Neo-125M)", ylabel="share of samples")
    flat[0].legend(frameon=False, fontsize=7)
    highest = math.log(records[0]["config"]["reference_size"])
    edges = np.linspace(0, highest * 1.001, 26)
    for axis, method in zip(flat[1:], methods, strict=False):
        for name, look in ((ORIGINAL, {"fill": True, "color": "0.75"}), (method, {"color": COLOURS[method]})):
            values = [v for record in records if record["config"]["method"] == name for v in record["results"]["exposures"]]
            counts, _ = np.histogram(values, edges)
            axis.stairs(counts / len(values), edges, **look)
        axis.axvline(cutoff(records[0]), color="black", linestyle=":", linewidth=1)
        axis.set(title=short_label(method))
    for axis in flat[len(methods) + 1 :]:
        axis.set_visible(False)
    for axis in flat:
        axis.set_xlabel("exposure (nats)")
    return drawn
