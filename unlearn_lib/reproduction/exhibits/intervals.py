"""What a few seeds and a few questions can tell apart: intervals of means and of accuracies."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import pandas as pd

LEVEL = 0.95
FEWEST = 3
"""Clusters of a kind that an interval can be built on."""


class Interval(NamedTuple):
    """A mean and the bounds of its interval; the bounds are NaN where one value alone gives none, and equal for an exact count."""

    mean: float
    low: float
    high: float

    @property
    def bounded(self) -> bool:
        """Whether there are bounds."""
        return not math.isnan(self.low)

    def beyond(self, value: float = 0.0) -> bool:
        """Whether the interval leaves a value out."""
        return self.low > value or self.high < value

    def text(self, digits: int = 2, *, signed: bool = True) -> str:
        """`-0.24 [-0.31, -0.17]`; the mean alone where there are no bounds. `signed` writes plus signs."""
        mean, low, high = (f"{value:{'+' if signed else ''}.{digits}f}" for value in self)
        return f"{mean} [{low}, {high}]" if self.bounded else mean


def interval(values: Iterable[float]) -> Interval:
    """Student's t interval of a mean at `LEVEL`, from independent values. One value has no bounds (NaN)."""
    from scipy import stats

    x = np.array(list(values), dtype=float)
    mean = float(x.mean())
    if len(x) < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return Interval(mean, mean - half, mean + half)


def clustered(values: pd.Series) -> Interval:
    """The `LEVEL` interval of the mean of cells that share tasks and models, and so are not independent.

    Cells of one task and model are averaged first, over removed samples and seeds: they come from the same original models. A task
    that several models share, and a model that several tasks share, are clusters: with r the deviations of the n averages from
    their mean, a set of G clusters gives V = G / (G - 1) sum_g (sum_{i in g} r_i)^2 / n^2, and both sets together
    V = V_task + V_model - V_both (Cameron, Gelbach and Miller 2011), but no less than either; Student's t has one degree of freedom
    less than the smaller set has clusters.

    Fewer than `FEWEST` tasks, or models, say nothing about others, so they are no clusters. Where
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
    return Interval(mean, mean - half, mean + half)


def proportion(hits: int, of: int) -> Interval:
    """The exact interval of Clopper and Pearson of a share, at `LEVEL`."""
    from unlearn_lib.metrics.utility import share_interval  # which loads torch

    return Interval(hits / of, *share_interval(hits, of, LEVEL))


def accuracy_error(accuracy: float, questions: int) -> float:
    """The standard error of an accuracy (both in percent) measured on so many independent questions: 100 sqrt(p (1 - p) / n)."""
    p = accuracy / 100
    return 100 * math.sqrt(p * (1 - p) / questions)


def over_cells(runs: pd.DataFrame, measure: str) -> pd.DataFrame:
    """For each method and number of removed samples: the mean of a measure over all cells (task, model), each a mean over its
    seeds, with the `clustered` interval."""
    cells = runs.groupby(["method", "removed", "task", "family", "size"], sort=False)[measure].mean().reset_index()
    rows = []
    for (method, removed), group in cells.groupby(["method", "removed"], sort=False):
        mean, low, high = clustered(group.set_index(["task", "family", "size"])[measure])
        rows.append({"method": method, "removed": removed, "cells": len(group), "mean": mean, "low": low, "high": high})
    return pd.DataFrame(rows)
