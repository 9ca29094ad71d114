"""Figures 4, 6 and 7: histograms of weights and of exposures, from the details of run records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from unlearn_lib.plotting import COLOURS
from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.scenarios import ORIGINAL
from unlearn_lib.reproduction.store import Record

PAPER_CUTOFF = 6.0
"""Nats: rank 1 or 2 among 1000 references."""


def weight_divergences(records: Sequence[Record]) -> pd.DataFrame:
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


def weight_histograms(records: Sequence[Record]) -> Any:
    """Figure 4: a panel for each method, its weights' histogram over the retrained model's, on a log scale."""
    figure, axes = plt.subplots(1, len(records), figsize=(1.9 * len(records), 2.5), sharey=True, layout="constrained")
    for axis, record in zip(axes, records, strict=True):
        found, method = record["results"]["weights"], record["config"]["method"]
        edges = np.linspace(-found["limit"], found["limit"], len(found["counts"]) + 1)
        axis.stairs(found["retrained_counts"], edges, color=COLOURS["retrain"], fill=True, alpha=0.35, label="retrained")
        axis.stairs(found["counts"], edges, color=COLOURS[method], linewidth=1, label="unlearned")
        axis.set(yscale="log", title=short_label(method), xlabel="weight")
    axes[0].set_ylabel("weights in a bin")
    axes[0].legend(frameon=False, fontsize=7, loc="lower center", handlelength=1)
    return figure


def short_label(method: str) -> str:
    """A method's name in two lines at most, for a narrow panel."""
    return paper.METHODS[method].replace(" (ours)", "").replace(", ", ",\n").replace(" (", "\n(")


def exposure_table(records: Sequence[Record]) -> pd.DataFrame:
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


def cutoff(record: Record) -> float:
    """The exposure between rank 2 and rank 3 among the record's references: what the paper's 6 is among 1000."""
    return math.log(record["config"]["reference_size"] / 2.5)


def exposure_histograms(records: Sequence[Record]) -> Any:
    """Figure 7: the exposure of the training samples before (filled) and after each method, pooled over the seeds; in the first
    panel the paper's own histograms, before and after retraining."""
    methods = [m for m in dict.fromkeys(record["config"]["method"] for record in records) if m != ORIGINAL]
    columns = 4
    figure, axes = plt.subplots(-(-(len(methods) + 1) // columns), columns, figsize=(7.4, 3.8), layout="constrained")
    flat = list(axes.flat)
    _printed_bars(flat[0], ("before", "retrain"), share=True)
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
    return figure


def onion_table(records: Sequence[Record]) -> pd.DataFrame:
    """Figure 6 as the text describes it, a row for each seed: how many samples lie above the cutoff, and after those are dropped
    and the model is retrained, how many of the others rise above it."""
    rows = []
    for record in records:
        found = record["results"]
        first, after = np.array(found["exposures"]), np.array(found["exposures_after"])
        kept_before = first[found["kept"]]
        rows.append(
            {
                "seed": record["config"]["seed"],
                "samples": len(first),
                "above before": int((first >= found["cutoff"]).sum()),
                "above after, of the rest": int((after >= found["cutoff"]).sum()),
                "mean of the rest, before": kept_before.mean(),
                "mean of the rest, after": after.mean(),
                "share of the rest that rises (%)": 100 * float((after > kept_before).mean()),
            }
        )
    return pd.DataFrame(rows)


def onion(records: Sequence[Record]) -> Any:
    """Figure 6: left the paper's bars, right ours, before and after the most exposed samples were dropped; pooled over the seeds."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
    _printed_bars(left, ("before", "after"), share=False)
    left.set(title="reported (GPT-Neo-125M, ARC)", ylabel="samples")
    edges = np.linspace(0, math.log(records[0]["config"]["reference_size"]) * 1.001, 26)
    before = [v for record in records for v in record["results"]["exposures"]]
    after = [v for record in records for v in record["results"]["exposures_after"]]
    right.stairs(np.histogram(before, edges)[0], edges, fill=True, color="0.75", label="before")
    right.stairs(np.histogram(after, edges)[0], edges, color=COLOURS["retrain"], label="after")
    right.axvline(records[0]["results"]["cutoff"], color="black", linestyle=":", linewidth=1)
    right.set(title=f"ours ({records[0]['config']['profile']}/neo-s, {len(records)} seeds together)")
    for axis in (left, right):
        axis.set_xlabel("exposure (nats)")
        axis.legend(frameon=False, fontsize=8, loc="upper left")
    return figure


def _printed_bars(axis: Any, labels: tuple[str, str], share: bool) -> None:
    """The paper's histograms of exposure before and after retraining, as counts or as shares of all samples, and its cutoff."""
    printed = paper.printed("exposure_histogram")
    looks: dict[str, dict[str, Any]] = {"before": {"fill": True, "color": "0.75"}, "retrain": {"color": COLOURS["retrain"]}}
    for (state, look), label in zip(looks.items(), labels, strict=True):
        part = printed[printed.state == state]
        counts = part["count"] / part["count"].sum() if share else part["count"]
        axis.stairs(counts, [*part.low, part.high.iloc[-1]], label=label, **look)
    axis.axvline(PAPER_CUTOFF, color="black", linestyle=":", linewidth=1)
