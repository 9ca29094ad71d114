"""Other roads: the systems that stand beside constrained Newton in `benchmarks/methods.py`, and what requests in sequence do
(`benchmarks/in_sequence.py`, `benchmarks/eul_requests.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from unlearn_lib.plotting import COLOURS, MARKERS
from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits import exam_frontier

ROADS = {
    "wga, with KL term, 25 %": "WGA with a KL term",
    "undial (no retain data)": "UNDIAL, no retained texts",
    "undial, with KL term, 25 %": "UNDIAL with a KL term",
    "dpo with refusals, with KL term, 50 %": "DPO with refusals, a KL term",
    "rmu": "RMU",
    "memflex, NLL, 25 %": "MemFlex",
    "sophia, NLL, 25 %": "Sophia",
    "task-vector (no retain data)": "task vector, no retained texts",
    "eul, 50 %": "EUL",
    "delta-unlearning, KL": "delta-unlearning",
}
"""The rows of the other systems that reach the goal of retraining, by how the page calls them."""
OWN = {"sisa, 4 shards of 3 slices": "SISA", "certified-newton, the head alone": "certified Newton"}
"""Those with a model of their own."""
BESIDE = {
    "original": "the original model",
    "retraining": "retraining",
    "gradient-ascent, Adam": "gradient ascent, no retained texts",
    "gradient-difference, NLL, 25 %": "gradient difference, NLL",
    "gradient-difference, KL, 25 %": "gradient difference, KL",
    "simnpo, with KL term, 25 %": "SimNPO with a KL term",
    "constrained-newton, 10 %": "constrained Newton, within a tenth",
    "constrained-newton, 25 %, written texts": "constrained Newton, within a quarter, written texts",
}
"""What they are compared with."""
NAMES = {**BESIDE, **ROADS, **OWN}
DRAWN = tuple(label for label in NAMES if label not in ("original", "retraining", *OWN))
"""The rows that reach the goal by unlearning."""
OUTSIDE, COST = "damage, outside", "cost (share)"
COSTS = {family: f"cost, {name}" for family, name in paper.FAMILIES.items()}
"""The columns with the cost of each family of models."""
TAKEN = {"retain": "retained texts", "base": "the model before its training"}
KEPT = {
    "original": "–",
    "constrained-newton, 25 %, written texts": "retained texts, and texts that the model writes",
    "sisa, 4 shards of 3 slices": "all texts and checkpoints",
    "certified-newton, the head alone": "all texts",
    "delta-unlearning, KL": "retained texts, a small model",
}
"""What rows take beside the texts to forget that their entry in the benchmark does not name."""
COLUMNS = {
    "damage_ratio": OUTSIDE,
    "used_damage_ratio": "damage, used",
    "forget_kl": "KL forgotten",
    "retain_kl": "KL outside",
    "holdout_kl": "KL held-out",
    "share": COST,
    **COSTS,
    "missed": "short of the goal",
    "needs": "needs",
}
REQUESTS = 5
FUSED = "EUL, fused"
WAYS = {
    "constrained-newton": ("constrained-newton", "constrained Newton"),
    "fisher-removal": ("fisher-removal", "Fisher Removal"),
    "gradient-difference, KL": ("gradient-difference", "gradient difference, KL"),
    "gradient ascent (Jang et al.), 0.0001": ("gradient-ascent", "gradient ascent (Jang et al.)"),
    "sisa": ("sisa", "SISA"),
    FUSED: ("eul", "EUL, fused"),
}
"""The ways to serve requests in sequence: whose colours and markers they have, and their names in the figure."""


def table(report: Mapping[str, Any]) -> pd.DataFrame:
    """The rows of `benchmarks/methods.json` that the page is about: means over seeds and families, the cost of each family, how many runs
    end short of the goal, and what a row was given beside the texts to forget."""
    found = exam_frontier.table(report)
    means = found[found.row.isin(NAMES)].groupby("row")[[name for name in COLUMNS if name in found.columns]].mean()
    means = means.loc[list(NAMES)].join(found.pivot(index="row", columns="family", values="share")).rename(index=NAMES)
    entries = [report["rows"][label] for label in NAMES]
    means["missed"] = [
        sum(not run.get("reached", 1.0) for family in families.values() for run in family["seeds"]) for families in entries
    ]
    means["needs"] = [
        KEPT.get(label) or ", ".join(TAKEN[need] for need in next(iter(families.values()))["needs"]) or "nothing"
        for label, families in zip(NAMES, entries, strict=True)
    ]
    means.index.name = "method"
    return means.reset_index().rename(columns=COLUMNS)[["method", *COLUMNS.values()]]


def own_models(report: Mapping[str, Any]) -> pd.DataFrame:
    """The systems with a model of their own: losses before and after, by family, means over the seeds."""
    lines = []
    for label, name in OWN.items():
        for family, entry in report["rows"][label].items():
            seeds = pd.DataFrame(entry["seeds"])
            line: dict[str, Any] = {"method": name, "family": paper.FAMILIES[family]}
            for part, said in {"forget": "forgotten", "used": "retained", "holdout": "held out"}.items():
                line |= {f"{said}, before": seeds[f"own_{part}_loss"].mean(), f"{said}, after": seeds[f"{part}_loss"].mean()}
            line |= {COST: seeds.cost.mean() / exam_frontier.retraining(report)}
            line["epsilon"] = seeds.epsilon.mean() if "epsilon" in seeds else float("nan")
            lines.append(line)
    return pd.DataFrame(lines)


def figure(report: Mapping[str, Any]) -> Any:
    """The damage outside, a line for each method that reaches the goal, from the least to the most; a marker for each family."""
    rows = exam_frontier.table(report)
    rows = rows[rows.row.isin(DRAWN)].assign(name=rows.row.map(NAMES))
    order = list(rows.groupby("name").damage_ratio.mean().sort_values(ascending=False).index)
    drawn, axis = plt.subplots(figsize=(6.4, 5.2), layout="constrained")
    for (family, marker), colour in zip((("neo", "o"), ("opt", "s")), (COLOURS["npo"], COLOURS["retrain"]), strict=True):
        mine = rows[rows.family == family]
        bars = [mine.damage_ratio - mine.damage_ratio_low.clip(lower=1e-4), mine.damage_ratio_high - mine.damage_ratio]
        places = [order.index(name) + (0.15 if family == "neo" else -0.15) for name in mine.name]
        label = paper.FAMILIES[family]
        axis.errorbar(mine.damage_ratio, places, xerr=bars, fmt=marker, color=colour, label=label, capsize=2, markersize=5)
    shares = rows.pivot(index="name", columns="family", values="share")
    axis.set(xscale="log", xlabel="damage ratio, retained texts outside")
    names = [name.replace(", written", ",\nwritten") for name in order]
    costs = [_percent(shares.loc[name]) for name in order]
    axis.set_yticks(range(len(order)), [f"{name} ({cost})" for name, cost in zip(names, costs, strict=True)])
    for label in axis.get_yticklabels():
        label.set_fontweight("bold" if label.get_text().startswith("constrained") else "normal")
    axis.grid(axis="x", which="both", alpha=0.25)
    axis.legend(loc="upper right", frameon=False)
    return drawn


def _percent(shares: pd.Series) -> str:
    """The mean cost of both families in percent of retraining's; both where one is more than twice the other."""
    if shares.max() > 2 * shares.min():
        return f"{100 * shares.min():.0f} and {100 * shares.max():.0f} %"
    return f"{100 * shares.mean():.0f} %"


def sequences(served: Mapping[str, Any], eul: Mapping[str, Any]) -> pd.DataFrame:
    """A line for every way, model, and number of requests so far: the mean loss of all texts asked for by then, that of the retained
    texts, of those outside and of unseen ones, and the gradients spent up to there."""
    lines: list[dict[str, Any]] = []
    for run in served["runs"]:
        for way, both in run["ways"].items():
            for how, entries in both.items():
                spent, start = 0.0, len(both["in turn"]) - len(entries)  # at once has no line of its own before the first
                for number, entry in enumerate(entries, start):
                    asked = entry["requests"][: number or None]  # before the first, of all that will be asked for
                    spent = entry.get("gradients", 0.0) + (spent if how == "in turn" else 0.0)
                    line = {"way": way, "how": how, "model": run["model"], "seed": run["seed"], "requests": number}
                    line |= {"forgotten": sum(asked) / len(asked), "retained": entry["retain"], "outside": entry["outside"]}
                    lines.append(line | {"unseen": entry["unseen"], "gradients": spent})
    for run in eul["runs"]:
        spent = 0.0
        for entry in run["after"]:
            shared = {"model": run["model"], "seed": run["seed"], "requests": entry["requests"], "unseen": run["unseen"]}
            spent += entry["gradients"]["own layers"]
            for way, how, gradients in (
                ("fused, ridge 0", "in turn", spent),
                ("one request for all", "at once", entry["gradients"]["one request for all"]),
            ):
                losses = entry["losses"][way]
                line = {"way": FUSED, "how": how, **shared, "forgotten": losses["forget"], "retained": losses["retain"]}
                lines.append(line | {"outside": losses["outside"], "gradients": gradients})
    return pd.DataFrame(lines)


def last(lines: pd.DataFrame) -> pd.DataFrame:
    """What there is after all requests: means over the models."""
    end = lines[lines.requests == REQUESTS].drop(columns=["model", "seed", "requests"])
    return end.groupby(["way", "how"], sort=False).mean().reset_index()


def harm(end: pd.DataFrame, start: pd.Series) -> pd.Series:
    """By way and how, how far the loss outside has risen for each nat by which that of the texts asked for has.

    Args:
        end: `last`, indexed by "way" and "how".
        start: The mean losses before any request, with "forgotten" and "outside".
    """
    rise: pd.Series = (end.outside - start["outside"]) / (end.forgotten - start["forgotten"])
    return rise


def sequence_figure(lines: pd.DataFrame) -> Any:
    """The loss of what is forgotten, and of the retained texts, over the requests served in turn; means over the models."""
    drawn, axes = plt.subplots(1, 2, figsize=(6.4, 3.6), sharex=True, layout="constrained")
    mine = lines[(lines.how == "in turn") & (lines.requests > 0)]
    for way, (method, name) in WAYS.items():
        means = mine[mine.way == way].groupby("requests")[["forgotten", "retained"]].mean()
        for axis, measure in zip(axes, ("forgotten", "retained"), strict=True):
            axis.plot(means.index, means[measure], color=COLOURS[method], marker=MARKERS[method], label=name)
    for axis, title in zip(axes, ("texts asked for so far", "retained texts"), strict=True):
        axis.set(title=title, xlabel="requests served", xticks=range(1, REQUESTS + 1))
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("loss (nats a token)")
    drawn.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return drawn
