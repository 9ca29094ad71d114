"""What a few seeds and a few questions can tell apart: intervals of means and of accuracies."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.scenarios import ORIGINAL

Interval = tuple[float, float, float]
"""(mean, low, high)."""
LEVEL = 0.95
FEWEST = 3
"""Clusters of a kind that an interval can be built on."""
QUESTIONS = {"arc_easy": 2376, "piqa": 1838, "mathqa": 2985, "lambada": 5153}
"""The paper's test questions (p. 5)."""


def interval(values: Iterable[float]) -> Interval:
    """(mean, low, high): Student's t interval of a mean at `LEVEL`, from independent values. One value has no interval (NaN)."""
    from scipy import stats

    x = np.array(list(values), dtype=float)
    mean = float(x.mean())
    if len(x) < 2:
        return mean, math.nan, math.nan
    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return mean, mean - half, mean + half


def clustered(values: pd.Series) -> Interval:
    """(mean, low, high): the `LEVEL` interval of the mean of cells that share tasks and models, and so are not independent.

    Cells of one task and model are averaged first, over removed samples and seeds: they come from the same original models. A task
    that several models share, and a model that several tasks share, are clusters: with r the deviations of the n averages from
    their mean, a set of G clusters gives V = G / (G - 1) sum_g (sum_{i in g} r_i)^2 / n^2, and both sets together
    V = V_task + V_model - V_both (Cameron, Gelbach and Miller 2011), but no less than either; Student's t has one degree of freedom
    less than the smaller set has clusters.

    Of tasks, or models, of which there are fewer than `FEWEST` nothing can be said about others, so they are no clusters. Where
    neither is one, the values are one for each original model (task, model, seed), and the interval is that of `interval`.

    Args:
        values: Indexed by "task" and "family", and where they differ by "size", "seed", "removed".
    """
    from scipy import stats

    sized = "size" in values.index.names
    table = values.rename("value").reset_index()
    table["model"] = table.family + "-" + table["size"] if sized else table.family
    cells = table.groupby(["task", "model"]).value.mean().reset_index()
    shared = [name for name in ("task", "model") if cells[name].nunique() >= FEWEST]
    if not shared:
        originals = ["task", "model", *(["seed"] if "seed" in table else [])]
        return interval(table.groupby(originals).value.mean())
    mean, n = float(cells.value.mean()), len(cells)
    deviations = cells.assign(value=cells.value - mean)

    def variance(names: list[str]) -> float:
        sums = deviations.groupby(names).value.sum()
        return float((sums**2).sum() / n**2 * len(sums) / (len(sums) - 1))

    single = [variance([name]) for name in shared]
    both = sum(single) - variance(shared) if len(shared) == 2 else single[0]
    clusters = min(cells[name].nunique() for name in shared)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, clusters - 1) * math.sqrt(max(both, *single)))
    return mean, mean - half, mean + half


def proportion(hits: int, of: int) -> Interval:
    """(share, low, high): the exact interval of Clopper and Pearson of a share, at `LEVEL`."""
    from scipy import stats

    found = stats.binomtest(hits, of)
    low, high = found.proportion_ci(LEVEL)
    return hits / of, float(low), float(high)


def text(found: Interval, digits: int = 2) -> str:
    """(mean, low, high) as `-0.24 [-0.31, -0.17]`; the mean alone where there is no interval."""
    mean, low, high = found
    if math.isnan(low):
        return f"{mean:+.{digits}f}"
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


def accuracy_error(accuracy: float, questions: int) -> float:
    """The standard error of an accuracy (both in percent) measured on so many independent questions: 100 sqrt(p (1 - p) / n)."""
    p = accuracy / 100
    return 100 * math.sqrt(p * (1 - p) / questions)


def headline(runs: pd.DataFrame) -> pd.DataFrame:
    """A row for each task, model, number of removed samples and method: ΔACC and ΔEXP, mean and interval over the seeds.

    `beyond 0`: whether the interval leaves zero out, for each of the two.
    """
    rows = []
    cells = ["task", "family", "size", "removed", "method"]
    for keys, group in runs[runs.method != ORIGINAL].groupby(cells, sort=False):
        accuracy, exposure = interval(group.delta_acc), interval(group.delta_exp)
        rows.append(
            dict(zip(cells, keys, strict=True))
            | {"seeds": len(group), "delta_acc": accuracy, "delta_exp": exposure}
            | {"acc_beyond": _beyond(accuracy), "exp_beyond": _beyond(exposure)}
        )
    return pd.DataFrame(rows)


def headline_text(table: pd.DataFrame) -> pd.DataFrame:
    """`headline` as it is shown."""
    return pd.DataFrame(
        {
            "task": table.task.map(paper.TASKS),
            "model": table.family + "-" + table["size"],
            "removed": table.removed,
            "method": table.method.map(paper.METHODS),
            "ΔACC": [text(cell, 1) for cell in table.delta_acc],
            "ΔEXP": [text(cell) for cell in table.delta_exp],
        }
    )


def _beyond(found: Interval) -> bool:
    _, low, high = found
    return low > 0 or high < 0


def over_cells(runs: pd.DataFrame, measure: str) -> pd.DataFrame:
    """For each method and number of removed samples: the mean of a measure over all cells (task, model), each a mean over its
    seeds, with the `clustered` interval."""
    cells = runs.groupby(["method", "removed", "task", "family", "size"], sort=False)[measure].mean().reset_index()
    rows = []
    for (method, removed), group in cells.groupby(["method", "removed"], sort=False):
        mean, low, high = clustered(group.set_index(["task", "family", "size"])[measure])
        rows.append({"method": method, "removed": removed, "cells": len(group), "mean": mean, "low": low, "high": high})
    return pd.DataFrame(rows)


def printed_within_error() -> pd.DataFrame:
    """For each method, how many of the paper's ΔACC are within two standard errors of zero.

    The error is that of the difference of two accuracies on the same questions if the answers were independent, at 50 % (40 %
    for LAMBADA, 25 % for MathQA): an upper bound, since a model and its unlearned copy mostly give the same answers.
    """
    level = {"arc_easy": 50.0, "piqa": 50.0, "mathqa": 25.0, "lambada": 40.0}
    table = paper.printed("utility_and_exposure")
    error = table.task.map(lambda task: math.sqrt(2) * accuracy_error(level[task], QUESTIONS[task]))
    inside = (table.delta_acc.abs() <= 2 * error).groupby(table.method, sort=False)
    return pd.DataFrame({"within two standard errors of 0": inside.sum(), "cells": inside.size()}).rename(index=paper.METHODS)
