"""Examination: what a few seeds and a few questions can tell apart."""

from __future__ import annotations

import math

import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits.cells import model_names
from unlearn_lib.reproduction.exhibits.intervals import accuracy_error, interval
from unlearn_lib.reproduction.runs.labels import ORIGINAL


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
            | {"acc_beyond": accuracy.beyond(), "exp_beyond": exposure.beyond()}
        )
    table, models = pd.DataFrame(rows), ["task", "family", "size"]
    # models stay in the order of the runs, and a cycle's methods come together
    order = table.groupby(models, sort=False).ngroup()
    return table.assign(order=order).sort_values(["order", "removed"], kind="stable", ignore_index=True).drop(columns="order")


def headline_text(table: pd.DataFrame) -> pd.DataFrame:
    """`headline` as it is shown."""
    return pd.DataFrame(
        {
            "task": table.task.map(paper.TASKS),
            "model": model_names(table),
            "removed": table.removed,
            "method": table.method.map(paper.METHODS),
            "ΔACC": [cell.text(1) for cell in table.delta_acc],
            "ΔEXP": [cell.text() for cell in table.delta_exp],
        }
    )


def printed_within_error() -> pd.DataFrame:
    """Count for each method how many of the paper's ΔACC are within two standard errors of zero.

    The error is that of the difference of two accuracies on the same questions if the answers were independent, at 50 % (40 %
    for LAMBADA, 25 % for MathQA): an upper bound, since a model and its unlearned copy mostly give the same answers.
    """
    table = paper.printed("utility_and_exposure")
    error = table.task.map(lambda task: math.sqrt(2) * accuracy_error(paper.ACCURACIES[task], paper.QUESTIONS[task]))
    inside = (table.delta_acc.abs() <= 2 * error).groupby(table.method, sort=False)
    return pd.DataFrame({"within two unpaired standard errors of 0": inside.sum(), "cells": inside.size()}).rename(
        index=paper.METHODS
    )
