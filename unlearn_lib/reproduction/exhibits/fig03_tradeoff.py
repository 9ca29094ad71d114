"""Figure 3: accuracy against the fall of exposure, every method over its strengths, DP-SGD among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits import frames
from unlearn_lib.reproduction.exhibits.looks import style
from unlearn_lib.reproduction.runs.labels import ORIGINAL, PRIVATE
from unlearn_lib.reproduction.runs.profile import Profile
from unlearn_lib.reproduction.runs.profiles import NANO
from unlearn_lib.reproduction.runs.record import CyclesRecord

STRENGTHS = {PRIVATE: "epsilon", "fisher-forgetting": "sigma"}
"""What is swept; for the other methods it is the step."""
HIDDEN = 0.6
"""The loss attack's largest AUC at which the forgotten samples count as hidden."""
MEASURES = ["exposure_drop", "accuracy", "forget_loss", "holdout_loss", "attack_auc", "holdout_kl"]


def runs(records: Sequence[CyclesRecord]) -> pd.DataFrame:
    """One row for each run: `frames.tidy` with its strength and the fall of exposure.

    `exposure_drop` is before minus after, in nats, on the forgotten samples; for DP-SGD, which has no before, from the original
    model that was trained without privacy. `epsilon` is the accountant's, of the noise that was used.
    """
    found = frames.tidy(records)
    given = [record["config"]["options"].get(STRENGTHS.get(record["config"]["method"], "step")) for record in records]
    strength = pd.to_numeric(pd.Series(given, dtype=object), errors="coerce")  # a calibrated or retrained model has none
    return found.assign(strength=strength, exposure_drop=-found.delta_exp)


def points(found: pd.DataFrame) -> pd.DataFrame:
    """One row for each task, method and strength: means and sample standard deviations of `runs` over the seeds."""
    keys = ["task", "method", "strength"]
    table = frames.by_groups(found, keys, MEASURES)
    spent = found.groupby(keys, sort=False, dropna=False).epsilon.mean()
    return table.assign(epsilon=spent.to_numpy())


def best_against_best(found: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of the best DP-SGD (`private`) and of the best of the swept unlearning methods (`unlearned`), a row for each seed.

    The best of many noisy settings looks better than it is. So for every seed the setting is chosen on the *other* seeds: the one
    with the highest mean accuracy of those that hide the samples there (mean AUC of the loss attack at most `HIDDEN`); what counts
    is its accuracy on the seed that was left out. Both sides are measured on the same seed, so the rows are pairs.

    Args:
        found: `runs` of one task.
    """
    swept = found[found.strength.notna()].set_index(["method", "strength"])
    rows = {}
    for seed in sorted(swept.seed.unique()):
        chosen = swept[swept.seed != seed].groupby(level=["method", "strength"])[["accuracy", "attack_auc"]].mean()
        hiding = chosen[chosen.attack_auc <= HIDDEN].accuracy
        private = hiding.index.get_level_values("method") == PRIVATE
        held = swept[swept.seed == seed].accuracy
        rows[seed] = {"private": held[hiding[private].idxmax()], "unlearned": held[hiding[~private].idxmax()]}
    return pd.DataFrame(rows).T


def figure(table: pd.DataFrame, profile: Profile = NANO) -> Any:
    """A row for each task, a point for each strength; right and up is better, up to retraining.

    Left the paper's curves, in the middle this repository's, and right the part of the middle panel between the original model and
    retraining, enlarged: the points of most methods lie there.
    """
    tasks = list(table.task.drop_duplicates())
    drawn, axes = plt.subplots(len(tasks), 3, figsize=(9.6, 2.9 * len(tasks)), squeeze=False, layout="constrained")
    for (left, middle, right), task in zip(axes, tasks, strict=True):
        chosen = table[table.task == task]
        _printed_curves(left, task)
        _curves(middle, chosen)
        _curves(right, chosen)
        horizontal, vertical = _enlarged(chosen)
        right.set(xlim=horizontal, ylim=vertical)
        middle.indicate_inset(
            [horizontal[0], vertical[0], horizontal[1] - horizontal[0], vertical[1] - vertical[0]], edgecolor="black"
        )
        name = paper.TASKS[task]
        left.set(title=f"{name}, reported (OPT-125M)", ylabel="accuracy (%)")
        middle.set(title=f"{name}, {paper.HERE} ({profile.name}/opt-s)")
        right.set(title="the rectangle, enlarged")
        for axis in (left, middle):
            axis.axhline(paper.CHANCE[task], color="grey", linestyle=":", linewidth=1)
        for axis in (left, middle, right):
            axis.set_xlabel("fall of exposure (nats)")
            axis.title.set_fontsize(9)
    handles, labels = axes[0, 1].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    return drawn


def _curves(axis: Any, chosen: pd.DataFrame) -> None:
    """The points of every method, joined in the order of their fall of exposure."""
    for method in chosen.method.drop_duplicates():
        look: dict[str, Any] = {**style(method), "markersize": 5, "linewidth": 1.2}
        mine = chosen[chosen.method == method].sort_values("exposure_drop_mean")
        alone = {"linestyle": "none", "markersize": 8} if len(mine) == 1 else {}
        axis.plot(mine.exposure_drop_mean, mine.accuracy_mean, **look | alone)


def _printed_curves(axis: Any, task: str) -> None:
    """The paper's points; it has one curve of ascent and does not say which reading of ascent it is."""
    printed = paper.printed("tradeoff")
    for method, points_of in printed[printed.task == task].groupby("method", sort=False):
        look: dict[str, Any] = {**style(str(method)), "markersize": 5, "linewidth": 1.2}
        axis.plot(points_of.exposure_drop, points_of.accuracy, linestyle="--", **look)


def _enlarged(chosen: pd.DataFrame) -> tuple[tuple[float, float], tuple[float, float]]:
    """The part of a panel that is enlarged: from the original model to retraining, with all points of methods whose exposure falls."""
    inside = chosen[(chosen.method != PRIVATE) & (chosen.exposure_drop_mean >= 0)]
    x, y = inside.exposure_drop_mean, inside.accuracy_mean
    return (x.min() - 0.1, x.max() + 0.1), (y.min() - 0.5, y.max() + 0.5)


def private(table: pd.DataFrame) -> pd.DataFrame:
    """DP-SGD alone: what each epsilon costs and hides, beside training without privacy and retraining."""
    chosen = table[table.method.isin([PRIVATE, ORIGINAL, "retrain"])]
    return pd.DataFrame(
        {
            "task": chosen.task.map(paper.TASKS),
            "model": chosen.method.map(paper.METHODS),
            "epsilon": chosen.epsilon.map(lambda value: "" if pd.isna(value) else f"{value:.3g}"),
            "accuracy (%)": chosen.accuracy_mean.round(1),
            "loss, forgotten": chosen.forget_loss_mean.round(3),
            "loss, held-out": chosen.holdout_loss_mean.round(3),
            "attack AUC": chosen.attack_auc_mean.round(2),
            "KL to retraining, held-out": chosen.holdout_kl_mean.round(3),
        }
    ).set_index(["task", "model", "epsilon"])
