"""Figure 6: the onion effect, from the detail "onion" of run records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from unlearn_lib.plotting import COLOURS
from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits.exposures import printed_bars
from unlearn_lib.reproduction.runs.record import CyclesRecord


def table(records: Sequence[CyclesRecord]) -> pd.DataFrame:
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


def figure(records: Sequence[CyclesRecord]) -> Any:
    """Figure 6: left the paper's bars, right this repository's, before and after the most exposed samples were dropped; over all
    seeds."""
    drawn, (left, right) = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
    printed_bars(left, ("before", "after"), share=False)
    left.set(title="reported (GPT-Neo-125M, ARC)", ylabel="samples")
    edges = np.linspace(0, math.log(records[0]["config"]["reference_size"]) * 1.001, 26)
    before = [v for record in records for v in record["results"]["exposures"]]
    after = [v for record in records for v in record["results"]["exposures_after"]]
    right.stairs(np.histogram(before, edges)[0], edges, fill=True, color="0.75", label="before")
    right.stairs(np.histogram(after, edges)[0], edges, color=COLOURS["retrain"], label="after")
    right.axvline(records[0]["results"]["cutoff"], color="black", linestyle=":", linewidth=1)
    right.set(title=f"{paper.HERE} ({records[0]['config']['profile']}/neo-s, {len(records)} seeds)")
    for axis in (left, right):
        axis.set_xlabel("exposure (nats)")
        axis.legend(frameon=False, fontsize=8, loc="upper left")
    return drawn
