"""Run records as tidy frames: a row for each record and cycle, and means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from unlearn_lib.reproduction.runs import profiles
from unlearn_lib.reproduction.runs.labels import ORIGINAL
from unlearn_lib.reproduction.runs.record import CyclesRecord, ScenarioRecord


def tidy(records: Sequence[CyclesRecord]) -> pd.DataFrame:
    """One row for each record and cycle: what was measured after it, and the change of accuracy and exposure since before."""
    rows: list[dict[str, Any]] = []
    for record in records:
        config, results = record["config"], record["results"]
        family, size = family_and_size(record)
        for cycle, before in enumerate(results["before"]):
            after = before if config["method"] == ORIGINAL else results["after"][cycle]
            rows.append(
                {
                    "profile": config["profile"],
                    "task": config["task"],
                    "family": family,
                    "size": size,
                    "seed": config["seed"],
                    "method": config["method"],
                    "removed": (cycle + 1) * config["cycle_size"],
                    **after,
                    "delta_acc": after["accuracy"] - before["accuracy"],
                    "delta_exp": after["exposure_nats"] - before["exposure_nats"],
                    "seconds": record["timing"].get(f"cycle_{cycle + 1}_seconds", float("nan")),
                }
            )
    return pd.DataFrame(rows)


def family_and_size(record: ScenarioRecord) -> tuple[str, str]:
    """Family and size of a record's model, as in ("opt", "s")."""
    config = record["config"]
    return profiles.find(config["profile"]).family_and_size(config["model"])


def over_seeds(runs: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Mean and sample standard deviation over the seeds: columns `<measure>_mean`, `<measure>_sd`, and `seeds`."""
    keys = ["task", "family", "size", "method", "removed"]
    return by_groups(runs, keys, measures)


def by_groups(runs: pd.DataFrame, keys: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    """`over_seeds` for any keys; a missing key (NaN) is a group, too."""
    groups = runs.groupby(list(keys), sort=False, dropna=False)
    table = groups[list(measures)].agg(["mean", "std"])
    table.columns = pd.Index([f"{measure}_{kind}" for measure in measures for kind in ("mean", "sd")])
    return table.assign(seeds=groups["seed"].nunique()).reset_index()


def with_rises(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs` with the rise of every loss since before unlearning, for the same task, model, seed and removed samples."""
    keys = ["task", "family", "size", "seed", "removed"]
    measures = ["forget_loss", "retain_loss", "holdout_loss"]
    start = runs[runs.method == ORIGINAL].set_index(keys)[measures].add_suffix("_before")
    changed = runs[runs.method != ORIGINAL].join(start, on=keys)
    for measure in measures:
        changed[measure.replace("loss", "rise")] = changed[measure] - changed[f"{measure}_before"]
    return changed
