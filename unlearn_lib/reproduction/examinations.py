"""What the paper does not have: sweeps to the same forget loss, so that only the damage differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from unlearn_lib.reproduction import paper, tables
from unlearn_lib.reproduction.profile import Profile
from unlearn_lib.reproduction.profiles import NANO
from unlearn_lib.reproduction.scenarios import ORIGINAL
from unlearn_lib.reproduction.store import Record

LOOKS = {
    "neo": {"color": "#0072B2", "marker": "D"},
    "opt": {"color": "#D55E00", "marker": "v"},
}
MEASURES = ["damage", "forget_rise", "retain_rise", "attack_auc", "retain_kl", "cosine_to_gradient", "gradient_evaluations"]


def sweep(records: Sequence[Record], names: Sequence[str]) -> pd.DataFrame:
    """One row for each run of one cycle but the originals': `tables.with_rises` with the options in `names`, and the damage ratio
    (rise on retained over rise on forgotten texts)."""
    runs = tables.tidy(records)
    for name in names:
        runs[name] = [record["config"]["options"].get(name) for record in records]
    changed = tables.with_rises(runs)
    return changed.assign(damage=changed.retain_rise / changed.forget_rise)


def means(runs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Means and sample standard deviations of all measures over the seeds, for each family and value of `by`."""
    return tables.by_groups(runs, ["family", *by], MEASURES)


def _looks(profile: Profile) -> dict[str, dict[str, Any]]:
    return {family: {**look, "label": f"{profile.name}/{family}-s"} for family, look in LOOKS.items()}


def damping_figure(table: pd.DataFrame, profile: Profile = NANO) -> Any:
    """The damage ratio (left) and the cosine of step and gradient (right) over dampings; dashed: the identity instead of F^-1."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
    for family, look in _looks(profile).items():
        mine = table[(table.family == family) & table.damping.notna()].sort_values("damping")
        plain = table[(table.family == family) & (table.solver == "identity")].iloc[0]
        left.errorbar(mine.damping, mine.damage_mean, yerr=mine.damage_sd, capsize=2, linewidth=1.2, markersize=5, **look)
        left.axhline(plain.damage_mean, color=look["color"], linestyle="--", linewidth=1)
        right.plot(mine.damping, mine.cosine_to_gradient_mean, linewidth=1.2, markersize=5, **look)
    for axis, label in ((left, "damage ratio"), (right, "cosine of step and gradient")):
        axis.set(xscale="log", xlabel="damping λ", ylabel=label)
        axis.set_ylim(bottom=0)
        axis.invert_xaxis()
    left.legend(frameon=False, fontsize=8)
    return figure


def blocks_figure(table: pd.DataFrame, width: int, terms: int, profile: Profile = NANO) -> Any:
    """The damage ratio over block widths B at one number of terms (left), and over numbers of terms m at one width (right)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8), sharey=True, layout="constrained")
    for family, look in _looks(profile).items():
        mine = table[table.family == family]
        for axis, swept, part in ((left, "width", mine[mine.terms == terms]), (right, "terms", mine[mine.width == width])):
            part = part.sort_values(swept)
            axis.errorbar(part[swept], part.damage_mean, yerr=part.damage_sd, capsize=2, linewidth=1.2, markersize=5, **look)
            axis.set(xscale="log", xticks=part[swept], xticklabels=[str(int(value)) for value in part[swept]])
            axis.minorticks_off()
    left.set(xlabel=f"block width B, m = {terms}", ylabel="damage ratio")
    left.set_ylim(bottom=0)
    right.set(xlabel=f"terms m, B = {width}")
    right.legend(frameon=False, fontsize=8)
    return figure


def orders(runs: pd.DataFrame) -> pd.DataFrame:
    """For each method, its mean rank over all cells (task, model, removed samples; 1 is best) by three readings of "unlearned well".

    The paper's: the lowest ΔEXP. The nearest to retraining: the smallest distance of ΔEXP to the retrained model's. And the
    smallest divergence from the retrained model on the forgotten samples. Retraining is the standard and takes no part.
    """
    cells = ["task", "family", "size", "removed"]
    means = (
        runs[runs.method != ORIGINAL].groupby([*cells, "method"], sort=False)[["delta_exp", "forget_kl"]].mean().reset_index()
    )
    standard = means[means.method == "retrain"].set_index(cells).delta_exp.rename("standard")
    others = means[means.method != "retrain"].join(standard, on=cells)
    others["gap"] = (others.delta_exp - others.standard).abs()
    ranked = others.groupby(cells)[["delta_exp", "gap", "forget_kl"]].rank(method="min").assign(method=others.method)
    found = ranked.groupby("method", sort=False).mean().assign(cells=ranked.groupby("method", sort=False).size())
    names = {"delta_exp": "lowest ΔEXP", "gap": "ΔEXP nearest to retraining's", "forget_kl": "nearest to retraining (KL)"}
    return found.rename(columns=names, index=paper.METHODS)


def beyond_retraining(runs: pd.DataFrame) -> pd.DataFrame:
    """For each method the share of runs (percent) whose forget loss ends above the retrained model's by more than 0.05 nats, and
    by more than 0.5; and where the loss attack, turned round, tells the forgotten samples apart again (AUC below 0.4)."""
    cells = ["task", "family", "size", "seed", "removed"]
    standard = runs[runs.method == "retrain"].set_index(cells).forget_loss.rename("standard")
    joined = runs[~runs.method.isin([ORIGINAL, "retrain"])].join(standard, on=cells)
    above = joined.forget_loss - joined.standard
    groups = pd.DataFrame(
        {
            "method": joined.method,
            "above by 0.05 nats (%)": 100.0 * (above > 0.05),
            "above by 0.5 nats (%)": 100.0 * (above > 0.5),
            "attack AUC below 0.4 (%)": 100.0 * (joined.attack_auc < 0.4),
        }
    ).groupby("method", sort=False)
    return groups.mean().assign(runs=groups.size()).rename(index=paper.METHODS)
