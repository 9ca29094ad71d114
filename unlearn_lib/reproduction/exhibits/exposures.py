"""What the histograms of exposure of Figures 6 and 7 share: the cutoff, and the paper's own bars."""

from __future__ import annotations

import math
from typing import Any

from unlearn_lib.plotting import COLOURS
from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.runs.record import CyclesRecord


def cutoff(record: CyclesRecord) -> float:
    """The exposure between rank 2 and rank 3 among the record's references: what the paper's 6 is among 1000."""
    return math.log(record["config"]["reference_size"] / 2.5)


def printed_bars(axis: Any, labels: tuple[str, str], share: bool) -> None:
    """The paper's histograms of exposure before and after retraining, as counts or as shares of all samples, and its cutoff."""
    printed = paper.printed("exposure_histogram")
    looks: dict[str, dict[str, Any]] = {"before": {"fill": True, "color": "0.75"}, "retrain": {"color": COLOURS["retrain"]}}
    for (state, look), label in zip(looks.items(), labels, strict=True):
        part = printed[printed.state == state]
        counts = part["count"] / part["count"].sum() if share else part["count"]
        axis.stairs(counts, [*part.low, part.high.iloc[-1]], label=label, **look)
    axis.axvline(paper.CUTOFF, color="black", linestyle=":", linewidth=1)
