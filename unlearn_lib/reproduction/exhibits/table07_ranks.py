"""Table 7: the methods' ranks over all scenarios, from any utility table, the paper's own or this repository's."""

from __future__ import annotations

import pandas as pd

MEASURES = {"efficacy": ("delta_exp", True), "fidelity": ("delta_acc", False), "efficiency": ("seconds", True)}
"""Column that is ranked, and whether the lowest value is best: as in the paper, "more negative is better" for exposure."""

LARGEST_SD = 2.0
"""The largest population standard deviation that ranks from 1 to 5 can have: half of them 1, half of them 5."""


def ranks(utility: pd.DataFrame) -> pd.DataFrame:
    """Mean and population standard deviation of every method's ranks (1 is best; equal values share the better rank).

    Args:
        utility: One row for each task, size, number of removed samples, family and method, with columns of `MEASURES`; a
            measure without a column is left out.

    Returns:
        Columns method, family, measure, mean, sd, scenarios.
    """
    scenario = ["family", "task", "size", "removed"]
    found = []
    for measure, (column, ascending) in MEASURES.items():
        if column in utility:
            ranked = utility.assign(rank=utility.groupby(scenario)[column].rank(method="min", ascending=ascending))
            groups = ranked.groupby(["method", "family"], sort=False)["rank"]
            table = groups.agg(mean="mean", sd=lambda rank: rank.std(ddof=0), scenarios="count").reset_index()
            found.append(table.assign(measure=measure))
    return pd.concat(found, ignore_index=True)
