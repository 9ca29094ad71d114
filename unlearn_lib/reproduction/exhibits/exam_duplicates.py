"""What is left after unlearning against the rate of near-duplicates, the request as it is or extended by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits.cells import between
from unlearn_lib.reproduction.exhibits.intervals import Interval, interval
from unlearn_lib.reproduction.exhibits.looks import style
from unlearn_lib.reproduction.exhibits.table08_cases import COSTS, over_seeds
from unlearn_lib.reproduction.runs.labels import ORIGINAL

REQUEST = {False: "as it is", True: "extended"}
SHARE = "share of near-duplicates"


def leftover(counted: pd.DataFrame, measure: str = "found_share") -> pd.DataFrame:
    """What is left after each method against the rate of near-duplicates, request as it is and extended: mean and interval."""
    rows = []
    for keys, group in counted.groupby(["method", "deduplicated", "rate"], sort=True):
        mean, low, high = interval(group[measure])
        rows.append(
            dict(zip(["method", "deduplicated", "rate"], keys, strict=True))
            | {"mean": mean, "low": low, "high": high, "seeds": len(group)}
        )
    return pd.DataFrame(rows)


def leftover_table(table: pd.DataFrame) -> pd.DataFrame:
    """`leftover` as text: a row for each method and request, a column for each rate; a dash where there was nothing to run."""
    shown = table.assign(
        method=table.method.map(paper.CASE_METHODS),
        request=table.deduplicated.map(REQUEST),
        text=[between(Interval(*found), 100) for found in zip(table["mean"], table.low, table.high, strict=True)],
    )
    return shown.pivot(index=["method", "request"], columns="rate", values="text").fillna("–").rename_axis(columns=SHARE)


def costs(runs: pd.DataFrame) -> pd.DataFrame:
    """How many texts each request had and what forgetting them cost: `table08_cases.over_seeds`."""
    found = runs[runs.method != ORIGINAL].assign(
        request=runs.deduplicated.map(REQUEST), method=runs.method.map(paper.CASE_METHODS)
    )
    table = over_seeds(found, ["method", "request", "rate"], {"removed": "texts"} | COSTS)
    return table.rename_axis(["method", "request", SHARE])


def leftover_figure(table: pd.DataFrame, methods: Sequence[str]) -> Any:
    """`leftover` as curves: left the request as it is, right extended by its near-duplicates."""
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.2), sharey=True, layout="constrained")
    for axis, extended in zip(axes, (False, True), strict=True):
        own = table[table.deduplicated == extended]
        # where no near-duplicates are planted there is nothing to extend the request by
        part = pd.concat([own, table[(table.rate == 0) & ~table.rate.isin(own.rate)]]).sort_values("rate")
        for number, method in enumerate(methods):
            mine = part[part.method == method]
            if extended and method == ORIGINAL:  # the same model
                mine = table[table.method == ORIGINAL].sort_values("rate")
            bars = [mine["mean"] - mine.low.clip(lower=0), mine.high.clip(upper=100) - mine["mean"]]
            apart = 0.008 * (number - (len(methods) - 1) / 2)  # so that the intervals can be told from each other
            axis.errorbar(mine.rate + apart, mine["mean"], bars, capsize=2, **style(method, paper.CASE_METHODS))
        axis.set(
            title="request extended by its near-duplicates" if extended else "request as it is",
            xlabel="share of near-duplicates",
            ylim=(-3, 103),
        )
    axes[0].set(ylabel="personal data found (%)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure
