"""Experiment: which of two conflicting statements a model believes, and what is left after one is unlearned (`benchmarks/conflicts.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from unlearn_lib.plotting import COLOURS
from unlearn_lib.reproduction.exhibits.saving import of_benchmark

ORIGINAL, RETRAINED = "original", "retraining"
PROBES = {"question": "question", "formal": "formal sentence", "sloppy": "sloppy sentence"}
"""The probes, and what a figure calls them."""
SAME = ("formal asked", "sloppy asked", "not asked")
"""The groups that were taught alike: four formal texts against four sloppy ones."""
STYLES = "4 formal, 4 sloppy"
CONDITIONS = {
    STYLES: SAME,
    "2 formal, 6 formal": ("few and many formal",),
    "2 sloppy, 6 sloppy": ("few and many sloppy",),
    "2 formal, 6 sloppy": ("few formal, many sloppy",),
    "6 formal, 2 sloppy": ("many formal, few sloppy",),
}
CONTROLS = {"only 4 formal": ("only formal",), "only 4 sloppy": ("only sloppy",), "nothing": ("nothing",)}
GONE = {"formal asked": 0, "sloppy asked": 1}
"""Which side of the group was to be forgotten."""
WITH_RETAINED = ("gradient difference, KL", "NPO with KL", "constrained Newton", "Fisher Removal")
"""The methods that use retained texts, which have two rows."""
GIVEN = ("with", "without")
"""Whether the other side's texts are among the retained ones that a method is given."""


def believed(report: Mapping[str, Any], row: str = ORIGINAL) -> pd.DataFrame:
    """What a row of the benchmark believes: a line for every run, probe and condition, with P of both sides' values ("first",
    "second"), of a value that nobody stated, the share of claims in which the first is likelier than the second ("prefers_first"), and
    in which each value is the likeliest of all ("best_first", "best_second"). Missing sides are NaN."""
    lines = []
    for run in report["runs"]:
        for probe, groups in run["rows"][row]["beliefs"].items():
            for condition, members in {**CONDITIONS, **CONTROLS}.items():
                entries = [groups[member] for member in members]
                line = {"model": run["model"], "seed": run["seed"], "probe": probe, "condition": condition}
                for side, name in enumerate(("first", "second")):
                    line[name] = _mean([entry["p"][side] for entry in entries if side < len(entry["p"])])
                    line[f"best_{name}"] = _mean([entry["best"][side] for entry in entries if side < len(entry["best"])])
                line["unstated"] = _mean([entry["unstated"] for entry in entries])
                line["prefers_first"] = _mean([entry["first_likelier"] for entry in entries if "first_likelier" in entry])
                lines.append(line)
    return pd.DataFrame(lines)


def conditions_table(lines: pd.DataFrame) -> pd.DataFrame:
    """The means over the runs: a line for every condition and probe."""
    numbers = lines.drop(columns=["model", "seed"]).groupby(["condition", "probe"], sort=False)
    return numbers.mean()


def forgotten(report: Mapping[str, Any]) -> pd.DataFrame:
    """A line for every run, row, probe and group that lost a side: P of the value that was to be forgotten ("gone"), of the value
    of the other side ("other"), of both after the beginnings of the texts that told them ("gone_told", "other_told"), and the losses."""
    lines = []
    for run in report["runs"]:
        for row, entry in run["rows"].items():
            for probe, groups in entry["beliefs"].items():
                for group, side in GONE.items():
                    p, told = groups[group]["p"], entry["own words"][group]
                    lines.append(
                        {
                            "model": run["model"], "seed": run["seed"], "row": row, "probe": probe, "group": group,
                            "gone": p[side], "other": p[1 - side], "unstated": groups[group]["unstated"],
                            "best_gone": groups[group]["best"][side], "best_other": groups[group]["best"][1 - side],
                            "gone_told": told[side], "other_told": told[1 - side],
                            **{f"{name} loss": loss for name, loss in entry["losses"].items()},
                            "gradients": entry.get("cost", {}).get("gradients", float("nan")),
                            "reached": entry.get("reached", True),
                        }
                    )  # fmt: skip
    return pd.DataFrame(lines)


def rows_table(lines: pd.DataFrame, probe: str = "question") -> pd.DataFrame:
    """The means over runs and both groups, by row."""
    mine = lines[lines.probe == probe]
    return mine.drop(columns=["model", "seed", "probe", "group"]).groupby("row", sort=False).mean()


def bystanders(report: Mapping[str, Any]) -> pd.DataFrame:
    """By row the mean over the runs, asked by the question: P of both values of the people with the same conflict who were not asked
    about ("first", "second"), and of the one value of the controls who were told only one ("only")."""
    lines = []
    for run in report["runs"]:
        for row, entry in run["rows"].items():
            groups = entry["beliefs"]["question"]
            first, second = groups["not asked"]["p"]
            only = _mean([groups["only formal"]["p"][0], groups["only sloppy"]["p"][0]])
            lines.append({"row": row, "first": first, "second": second, "only": only})
    return pd.DataFrame(lines).groupby("row", sort=False).mean()


def spread(report: Mapping[str, Any]) -> pd.DataFrame:
    """By row of `benchmarks/conflicts_tokens.json` the means over its runs: the negative log-likelihood of a text to forget at its value
    and at all other tokens ("value", "around", nats a text), the share of texts whose value is still known, and which share of the rise
    over the original's is one at the value ("share_of_rise", NaN for the original)."""
    lines = [{"row": row, **entry} for run in report["runs"] for row, entry in run["rows"].items()]
    found = pd.DataFrame(lines).groupby("row", sort=False).mean()
    rise = found[["value", "around"]] - found.loc[ORIGINAL, ["value", "around"]]
    return found.assign(share_of_rise=rise["value"] / rise.sum(axis=1).where(rise.index != ORIGINAL))


def styles_figure(lines: pd.DataFrame) -> Any:
    """The share of claims in which the first side's value is the likelier one, by condition, a panel for each probe; dots are runs."""
    drawn, axes = plt.subplots(1, 3, figsize=(7, 2.9), sharey=True, layout="constrained")
    for axis, (probe, name) in zip(axes, PROBES.items(), strict=True):
        for place, condition in enumerate(CONDITIONS):
            mine = lines[(lines.probe == probe) & (lines.condition == condition)].prefers_first
            axis.plot(mine, [place] * len(mine), "o", markersize=4, markerfacecolor="none", color=COLOURS["fisher-removal"])
            axis.plot([mine.mean()], [place], "|", markersize=16, markeredgewidth=2, color="#000000")
        axis.axvline(0.5, color="#888888", linestyle=":", linewidth=1)
        axis.set(title=name, xlim=(-0.04, 1.04))
        axis.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    axes[0].set_yticks(range(len(CONDITIONS)), list(CONDITIONS))
    axes[0].set_ylim(len(CONDITIONS) - 0.5, -0.5)
    axes[1].set_xlabel("share of claims in which the side named first is believed more than the second")
    axes[0].set_ylabel("texts of either side")
    return drawn


def forgotten_figure(lines: pd.DataFrame, probe: str = "question") -> Any:
    """P of the forgotten value and of the other side's, by row: a panel for people who lost the formal side, and one for the sloppy."""
    rows = list(dict.fromkeys(lines.row))
    drawn, axes = plt.subplots(1, 2, figsize=(7, 4.6), sharey=True, sharex=True, layout="constrained")
    for axis, group in zip(axes, GONE, strict=True):
        mine = lines[(lines.probe == probe) & (lines.group == group)]
        for place, row in enumerate(rows):
            here = mine[mine.row == row]
            axis.plot(here.gone, [place + 0.13] * len(here), ".", markersize=3, color=COLOURS["gradient-ascent"])
            axis.plot(here.other, [place - 0.13] * len(here), ".", markersize=3, color=COLOURS["fisher-removal"])
            axis.plot(
                [here.gone.mean()], [place + 0.13], "v", color=COLOURS["gradient-ascent"], label=_once("forgotten", place)
            )
            axis.plot(
                [here.other.mean()], [place - 0.13], "o", color=COLOURS["fisher-removal"], label=_once("other side", place)
            )
        axis.axvline(1 / 12, color="#888888", linestyle=":", linewidth=1)
        axis.set(title=f"the {group.split()[0]} side was forgotten", xlabel="P(value), asked by a question", xlim=(0, 0.95))
    axes[0].set_yticks(range(len(rows)), rows)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    axes[1].legend(loc="upper right", fontsize=8)
    return drawn


def made_from(report: Mapping[str, Any]) -> dict[str, Any]:
    """What the figures were made from."""
    runs = report["runs"]
    return of_benchmark(
        report, "conflicts.json", f"{len(runs)} runs ({', '.join(dict.fromkeys(run['model'] for run in runs))})"
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else float("nan")


def _once(label: str, place: int) -> str | None:
    return label if place == 0 else None
