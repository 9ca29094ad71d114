"""Table 8, the personal data found and the curves over criteria, from the records of the case studies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits.cells import between
from unlearn_lib.reproduction.exhibits.frames import family_and_size
from unlearn_lib.reproduction.exhibits.intervals import interval
from unlearn_lib.reproduction.exhibits.looks import style
from unlearn_lib.reproduction.runs.labels import ORIGINAL
from unlearn_lib.reproduction.runs.record import CaseRecord, CaseState

if TYPE_CHECKING:  # drawing needs torch, and the tables do not
    from unlearn_lib.metrics.extraction import Criterion

MEMORISED = 30
"""A text counts as memorised when a draw gives so many of its next tokens exactly: about 70 characters, 13 words."""
UNSEEN = "unseen"
CRITERIA: dict[str, list[float]] = {
    "run": [5, 10, 20, 30, 40, 60, 80, 100],
    "rouge": [0.5, 0.6, 0.7, 0.8, 0.9, 0.95],
    "edit": [0.5, 0.6, 0.7, 0.8, 0.9, 0.95],
}
MEANING = {
    "run": "tokens exact from the prefix on",
    "rouge": "ROUGE-L recall",
    "edit": "1 - edit distance",
}
KEYS = ["task", "family", "seed", "method", "rate", "deduplicated"]


def texts(records: Sequence[CaseRecord]) -> pd.DataFrame:
    """A row for each text that was asked for, and state of the model: how close its draws came, its personal data found of how many.

    The state `unseen` is the original model on texts that it was not trained on: what is found there is chance.
    """
    rows = []
    for record in records:
        config, results = record["config"], record["results"]
        key = [
            config["task"],
            family_and_size(record)[0],
            config["seed"],
            config["method"],
            config["duplicates"],
            config["deduplicate"],
        ]
        parts = [(config["method"], _state(record)["extraction"])]
        if config["method"] == ORIGINAL:
            parts.append((UNSEEN, results["before"][0]["extraction_unseen"]))
        for method, found in parts:
            for number, row in enumerate(found):
                data = row["found"].values()
                rows.append(
                    dict(zip(KEYS, key, strict=True))
                    | {
                        "method": method,
                        "text": number,
                        **{name: row[name] for name in ("run", "rouge", "edit", "shared", "own")},
                    }
                    | {"found": sum(data), "data": len(data)}
                )
    return pd.DataFrame(rows)


def counts(rows: pd.DataFrame, criterion: Criterion | None = None) -> pd.DataFrame:
    """A row for each run: `memorised` texts by the criterion (default: `MEMORISED` tokens), of how many `asked`, and the share of
    personal data found (percent)."""
    measure, least = (criterion.measure, criterion.at_least) if criterion is not None else ("run", MEMORISED)
    groups = rows.assign(memorised=rows[measure] >= least).groupby(KEYS, sort=False)
    table = groups.agg(memorised=("memorised", "sum"), asked=("text", "size"), found=("found", "sum"), data=("data", "sum"))
    shares = groups[["shared", "own"]].mean() * 100
    return table.assign(found_share=100 * table.found / table.data, shared=shares.shared, own=shares.own).reset_index()


def states(records: Sequence[CaseRecord]) -> pd.DataFrame:
    """A row for each run: losses (nats), accuracy (percent), the loss attack's AUC, seconds, how many texts were removed, whether the
    method said that it did not get as far as it should, and `damage`, the rise of the retain loss over that of the forget loss."""
    rows = []
    for record in records:
        config, state, before = record["config"], _state(record), record["results"]["before"][0]
        rows.append(
            {
                "task": config["task"],
                "family": family_and_size(record)[0],
                "seed": config["seed"],
                "method": config["method"],
                "rate": config["duplicates"],
                "deduplicated": config["deduplicate"],
                "removed": config["cycle_size"] + (before["near_duplicates"] if config["deduplicate"] else 0),
                **{name: state[name] for name in ("forget_loss", "retain_loss", "holdout_loss", "attack_auc", "accuracy")},
                "damage": _ratio(state["retain_loss"] - before["retain_loss"], state["forget_loss"] - before["forget_loss"]),
                "incomplete": bool(state.get("incomplete", False)),
                "seconds": record["timing"].get("cycle_1_seconds", float("nan")),
            }
        )
    return pd.DataFrame(rows)


COSTS = {
    "forget_loss": "forget loss",
    "retain_loss": "retain loss",
    "holdout_loss": "held-out loss",
    "damage": "damage ratio",
    "attack_auc": "attack AUC",
    "accuracy": "accuracy (%)",
    "incomplete": "runs that stopped early",
}


def over_seeds(runs: pd.DataFrame, keys: Sequence[str], names: Mapping[str, str] = COSTS) -> pd.DataFrame:
    """The means of `states` over the seeds, and how many of the runs stopped early; columns are called as `names` say."""
    groups = runs.groupby(list(keys), sort=False)
    return groups[list(names)].mean().assign(incomplete=groups.incomplete.sum()).rename(columns=names)


def quality(runs: pd.DataFrame) -> pd.DataFrame:
    """What every method cost, by task and model: `over_seeds` with names that can be read."""
    named = runs.assign(
        task=runs.task.map(paper.TASKS), family=runs.family.map(paper.FAMILIES), method=runs.method.map(paper.CASE_METHODS)
    )
    return over_seeds(named, ["task", "family", "method"])


def table8(counted: pd.DataFrame) -> pd.DataFrame:
    """Memorised texts beside the paper's, for each task and method: mean and 95 % interval over the seeds, of how many were asked,
    and the paper's of 128."""
    printed = paper.reported("case_studies").set_index(["task", "family", "method"]).memorised.to_dict()
    asked = counted.asked.iloc[0]

    def columns(cell: tuple[str, ...], group: pd.DataFrame) -> dict[str, str]:
        name = paper.FAMILIES[cell[1]]
        reported = f"{printed[cell]:g}" if cell in printed else ""
        return {
            f"{name}, of {asked}": between(interval(group.memorised), asked),
            f"{name}, paper, of {paper.CYCLE_SIZE}": reported,
        }

    return _by_task_and_method(counted, columns)


def personal(counted: pd.DataFrame) -> pd.DataFrame:
    """The share of planted personal data that came back, in percent, for each task and method: mean and 95 % interval over seeds."""

    def columns(cell: tuple[str, ...], group: pd.DataFrame) -> dict[str, str]:
        return {paper.FAMILIES[cell[1]]: between(interval(group.found_share), 100)}

    return _by_task_and_method(counted, columns)


def seconds(runs: pd.DataFrame) -> pd.DataFrame:
    """Seconds of a method beside the paper's: means of `states` over the seeds."""
    ours = runs[runs.method != ORIGINAL].groupby(["task", "family", "method"], sort=False).seconds.mean().rename(paper.HERE)
    theirs = paper.reported("case_studies").set_index(["task", "family", "method"]).seconds.rename("paper")
    table = ours.to_frame().join(theirs).reset_index()
    names = table.assign(
        task=table.task.map(paper.TASKS), method=table.method.map(paper.CASE_METHODS), family=table.family.map(paper.FAMILIES)
    )
    return names.pivot_table(index=["task", "method"], columns="family", values=[paper.HERE, "paper"], sort=False)


def recovered(rows: pd.DataFrame) -> pd.DataFrame:
    """The percentage of the runs of 8 tokens in the requested texts that draws hold: of `shared` ones and of the text's `own`."""
    means = 100 * rows.groupby(["task", "method"], sort=False)[["shared", "own"]].mean()
    names = means.reset_index()
    names["task"], names["method"] = names.task.map(paper.TASKS), names.method.map(paper.CASE_METHODS)
    return names.set_index(["task", "method"])


def kinds(records: Sequence[CaseRecord]) -> pd.DataFrame:
    """The personal data of each kind that came back, in percent of those asked for, over seeds and families."""
    rows = []
    for record in records:
        config, state = record["config"], _state(record)
        for row in state["extraction"]:
            rows += [
                {
                    "task": paper.TASKS[config["task"]],
                    "kind": kind,
                    "method": paper.CASE_METHODS[config["method"]],
                    "found": 100.0 * value,
                }
                for kind, value in row["found"].items()
            ]
    table = pd.DataFrame(rows, columns=["task", "kind", "method", "found"])
    return table.pivot_table(index=["task", "kind"], columns="method", values="found", sort=False)


def criteria_table(rows: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """The share of texts (percent) that count as memorised by every criterion, over all tasks, models and seeds: a column a method."""
    return pd.DataFrame(
        [
            {"measure": measure, "at least": threshold}
            | {
                paper.CASE_METHODS[method]: 100 * float((rows.loc[rows.method == method, measure] >= threshold).mean())
                for method in methods
            }
            for measure, thresholds in CRITERIA.items()
            for threshold in thresholds
        ]
    )


def by_criterion(table: pd.DataFrame) -> pd.DataFrame:
    """`criteria_table` as it is shown: whole percent, a row for each measure and threshold, the measures with their meaning."""
    named = table.assign(measure=table.measure.map(MEANING)).set_index(["measure", "at least"])
    return named.rename(index="{:g}".format, level="at least").round().astype(int)


def criteria_figure(table: pd.DataFrame, methods: Sequence[str]) -> Any:
    """`criteria_table` as curves over the threshold, a panel for each measure."""
    figure, axes = plt.subplots(1, 3, figsize=(8.4, 3.0), sharey=True, layout="constrained")
    for axis, measure in zip(axes, CRITERIA, strict=True):
        part = table[table.measure == measure]
        for method in methods:
            axis.plot(part["at least"], part[paper.CASE_METHODS[method]], **style(method, paper.CASE_METHODS))
        axis.set(xlabel=MEANING[measure])
    axes[0].set(ylabel="texts memorised (%)", ylim=(-3, 103))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def _state(record: CaseRecord) -> CaseState:
    """What was measured after the method, of the original model before any."""
    results = record["results"]
    return results["before" if record["config"]["method"] == ORIGINAL else "after"][0]


def _by_task_and_method(
    counted: pd.DataFrame, columns: Callable[[tuple[str, ...], pd.DataFrame], dict[str, str]]
) -> pd.DataFrame:
    """A row for each task and method, with the columns of each of its (task, family, method) and the runs of that cell."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for cell, group in counted.groupby(["task", "family", "method"], sort=False):
        task, family, method = map(str, cell)
        row = rows.setdefault((paper.TASKS[task], paper.CASE_METHODS[method]), {})
        row.update(columns((task, family, method), group))
    table = pd.DataFrame(list(rows.values()), pd.MultiIndex.from_tuples(list(rows), names=["task", "method"]))
    return table.sort_index(level="task", sort_remaining=False, ascending=False, kind="stable")


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
