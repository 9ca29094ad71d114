"""From run records to the tables and figures of the notebooks, always beside the reported numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from unlearn_lib.files import write_text
from unlearn_lib.reproduction import paper, profiles
from unlearn_lib.reproduction.scenarios import ORIGINAL
from unlearn_lib.reproduction.settings import PAPER_CYCLE_SIZE
from unlearn_lib.reproduction.store import Record, key

NO_BREAK = "\u00a0"


def tidy(records: Sequence[Record]) -> pd.DataFrame:
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


def family_and_size(record: Record) -> tuple[str, str]:
    """Of a record's model: ("opt", "s")."""
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


def beside_reported(runs: pd.DataFrame) -> pd.DataFrame:
    """The paper's utility table with ours: one row for each size, method, family and number of removed samples.

    Our model of a size stands for the paper's model of that size, the samples of one of our cycles for the paper's 128.
    """
    ours = over_seeds(runs[runs.method != ORIGINAL], ["delta_acc", "delta_exp"])
    ours = ours.assign(paper_removed=ours.removed // runs.removed.min() * PAPER_CYCLE_SIZE)
    theirs = paper.reported("utility_and_exposure").rename(
        columns={"removed": "paper_removed", "delta_acc": "paper_delta_acc", "delta_exp": "paper_delta_exp"}
    )
    keys = ["task", "size", "method", "family", "paper_removed"]
    return ours.merge(theirs[[*keys, "paper_delta_acc", "paper_delta_exp"]], on=keys, how="left", validate="one_to_one")


def original_quality(runs: pd.DataFrame) -> pd.DataFrame:
    """The original models: accuracy (percent), and loss on texts of the training set and on held-out ones (nats), over seeds."""
    first = runs[(runs.method == ORIGINAL) & (runs.removed == runs.removed.min())]
    table = over_seeds(first, ["accuracy", "retain_loss", "holdout_loss"])
    return pd.DataFrame(
        {
            "task": table.task.map(paper.TASKS),
            "model": runs.profile.iloc[0] + "/" + table.family + "-" + table["size"],
            "accuracy (%)": _cells(table, "accuracy", 1, sign=False),
            "loss, training texts": _cells(table, "retain_loss", 3, sign=False),
            "loss, held-out texts": _cells(table, "holdout_loss", 3, sign=False),
            "chance (%)": table.task.map(paper.CHANCE),
            "seeds": table.seeds,
        }
    )


def with_rises(runs: pd.DataFrame) -> pd.DataFrame:
    """`runs` with the rise of every loss since before unlearning, for the same task, model, seed and removed samples."""
    keys = ["task", "family", "size", "seed", "removed"]
    measures = ["forget_loss", "retain_loss", "holdout_loss"]
    start = runs[runs.method == ORIGINAL].set_index(keys)[measures].add_suffix("_before")
    changed = runs[runs.method != ORIGINAL].join(start, on=keys)
    for measure in measures:
        changed[measure.replace("loss", "rise")] = changed[measure] - changed[f"{measure}_before"]
    return changed


def changes(runs: pd.DataFrame) -> pd.DataFrame:
    """What every method changed, over the seeds: accuracy, exposure, the losses and their rises, distances, the attack, and
    `damage`, the rise of the mean retain loss over the rise of the mean forget loss."""
    measures = [
        "delta_acc",
        "delta_exp",
        "forget_loss",
        "holdout_loss",
        "forget_rise",
        "retain_rise",
        "retain_kl",
        "attack_auc",
    ]
    table = over_seeds(with_rises(runs), measures)
    return table.assign(damage=table.retain_rise_mean / table.forget_rise_mean)


def nearest(changed: pd.DataFrame, attack: float = 0.6) -> pd.Series:
    """How often each method is the one nearest to retraining on retained texts (KL), over tasks, models and removed samples,
    among those that bring the loss attack to an AUC of `attack` or below."""
    hidden = changed[(changed.attack_auc_mean <= attack) & (changed.method != "retrain")]
    best = hidden.groupby(["task", "family", "size", "removed"]).retain_kl_mean.idxmin()
    counts: pd.Series[int] = hidden.loc[best, "method"].map(paper.METHODS).value_counts()
    return counts


def loss_changes(runs: pd.DataFrame) -> pd.DataFrame:
    """The rise of each loss (nats, mean ± sd over seeds), the damage ratio of the mean rises, and the seconds of a cycle."""
    measures = ["forget_rise", "retain_rise", "holdout_rise", "seconds"]
    table = over_seeds(with_rises(runs), measures)
    ratio = table.retain_rise_mean / table.forget_rise_mean
    return pd.DataFrame(
        {
            "task": table.task.map(paper.TASKS),
            "model": table.family + "-" + table["size"],
            "removed": table.removed,
            "method": table.method.map(paper.METHODS),
            "forget rise": _cells(table, "forget_rise", 3),
            "retain rise": _cells(table, "retain_rise", 3),
            "held-out rise": _cells(table, "holdout_rise", 3),
            # where the forget loss hardly moves, a ratio says nothing
            "damage ratio": [
                f"{r + 0.0:.2f}" if rise > 0.02 else "" for r, rise in zip(ratio.round(2), table.forget_rise_mean, strict=True)
            ],
            "s / cycle": table.seconds_mean.map("{:.1f}".format),
        }
    )


def distances(runs: pd.DataFrame) -> pd.DataFrame:
    """How far each model is from the retrained one (divergence of the next token, nats, mean ± sd over seeds), and the loss
    attack's AUC between forgotten and held-out texts; retraining itself is at 0 and about 0.5."""
    table = over_seeds(runs, ["forget_kl", "retain_kl", "holdout_kl", "attack_auc"])
    return pd.DataFrame(
        {
            "model": table.family + "-" + table["size"],
            "removed": table.removed,
            "method": table.method.map(paper.METHODS),
            "KL, forgotten": _cells(table, "forget_kl", 3, sign=False),
            "KL, retained": _cells(table, "retain_kl", 3, sign=False),
            "KL, held-out": _cells(table, "holdout_kl", 3, sign=False),
            "attack AUC": _cells(table, "attack_auc", 2, sign=False),
        }
    )


def cycles_beside_reported(runs: pd.DataFrame) -> pd.DataFrame:
    """Figure 5 as a table: our accuracy after every cycle (percent, mean ± sd), and the paper's."""
    ours = over_seeds(runs[runs.method != ORIGINAL], ["accuracy", "delta_acc"])
    ours = ours.assign(paper_removed=ours.removed // runs.removed.min() * PAPER_CYCLE_SIZE)
    theirs = paper.reported("cycles").rename(columns={"removed": "paper_removed", "accuracy": "paper_accuracy"})
    keys = ["task", "method", "paper_removed"]
    table = ours.merge(theirs[[*keys, "paper_accuracy"]], on=keys, how="left", validate="one_to_one")
    return pd.DataFrame(
        {
            "task": table.task.map(paper.TASKS),
            "method": table.method.map(paper.METHODS),
            "removed (paper)": [f"{a} ({b})" for a, b in zip(table.removed, table.paper_removed, strict=True)],
            "accuracy, ours": _cells(table, "accuracy", 1, sign=False),
            "ΔACC, ours": _cells(table, "delta_acc", 1),
            "accuracy, paper": table.paper_accuracy.map(lambda value: printed_number(value, "{:.1f}")),
        }
    )


def _cells(table: pd.DataFrame, measure: str, digits: int, sign: bool = True) -> list[str]:
    pairs = zip(table[f"{measure}_mean"], table[f"{measure}_sd"], strict=True)
    return [plus_minus(mean, sd, digits).lstrip("" if sign else "+") for mean, sd in pairs]


def counts(compared: pd.DataFrame) -> pd.DataFrame:
    """For every method, in how many of the table's cells it erases more than retraining, and in how many it costs 5 points or more.

    Ours (means over seeds) and the paper's (one printed number each), over the same cells.
    """
    rows = []
    cells = ["task", "size", "family", "removed"]
    for source, prefix, suffix in (("ours", "", "_mean"), ("paper", "paper_", "")):
        exposure, accuracy = f"{prefix}delta_exp{suffix}", f"{prefix}delta_acc{suffix}"
        standard = compared[compared.method == "retrain"].set_index(cells)[exposure].rename("standard")
        table = compared.join(standard, on=cells)
        for method, group in table.groupby("method", sort=False):
            known = group[exposure].notna().all()
            for name, hits in (
                ("ΔEXP below retraining's", group[exposure] < group.standard),
                ("ΔACC at or below -5", group[accuracy] <= -5),
            ):
                rows.append((paper.METHODS[str(method)], name, source, f"{hits.sum()} of {len(group)}" if known else "–"))
    wide = pd.DataFrame(rows, columns=["method", "count", "source", "text"])
    order = wide.method.drop_duplicates().tolist()
    return wide.pivot(index="method", columns=["count", "source"], values="text").reindex(order)


def save_table(table: pd.DataFrame, name: str, folder: Path, records: Sequence[Record]) -> Path:
    """Write the data of a table as `name.csv`, and what it was made from as `name.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8")
    made_from = {"records": sorted(key(record["config"])[:12] for record in records), "from": provenance_line(records)}
    write_text(folder / f"{name}.json", json.dumps(made_from, indent=1) + "\n")
    return folder / f"{name}.csv"


def plus_minus(mean: float, sd: float, digits: int = 2) -> str:
    """`-1.20 ± 0.31` with no-break spaces; a negative zero is printed as zero, and one seed has no spread."""
    text = f"{round(mean, digits) + 0.0:+.{digits}f}"
    return text if math.isnan(sd) else f"{text}{NO_BREAK}±{NO_BREAK}{sd:.{digits}f}"


def printed_number(value: float, form: str = "{:+.2f}") -> str:
    """A number of the paper, or a dash where it has none (our own method)."""
    return "–" if math.isnan(value) else form.format(value)


def layout(compared: pd.DataFrame) -> pd.DataFrame:
    """`beside_reported` as text: a row for each model, number of removed samples (the paper's in brackets) and method."""
    table = pd.DataFrame(
        {
            "model (stands for)": [
                f"{family}-{size} ({paper.FAMILIES[family]} {paper.SIZES[size]})"
                for family, size in zip(compared.family, compared["size"], strict=True)
            ],
            "removed": [f"{ours} ({theirs})" for ours, theirs in zip(compared.removed, compared.paper_removed, strict=True)],
            "method": compared.method.map(paper.METHODS),
            "ΔACC, ours": _cells(compared, "delta_acc", 2),
            "ΔACC, paper": compared.paper_delta_acc.map(printed_number),
            "ΔEXP, ours": _cells(compared, "delta_exp", 2),
            "ΔEXP, paper": compared.paper_delta_exp.map(printed_number),
        }
    )
    order = table["model (stands for)"] + table["removed"]
    return table.loc[order.sort_values(kind="stable").index].set_index(["model (stands for)", "removed", "method"])


def provenance_line(records: Sequence[Record]) -> str:
    """Profile, seeds, hardware and commits behind a table or figure, in one line."""

    def values(*path: str) -> str:
        found: list[Any] = []
        for record in records:
            value: Any = record
            for step in path:
                value = value[step]
            if value not in found:
                found.append(value)
        return ", ".join(map(str, found))

    return (
        f"{len(records)} records, profile {values('config', 'profile')}, seeds {values('config', 'seed')}; computed on "
        f"{values('provenance', 'processor')} ({values('provenance', 'device')}), torch {values('provenance', 'torch')}, "
        f"commit {values('provenance', 'commit')}"
    )
