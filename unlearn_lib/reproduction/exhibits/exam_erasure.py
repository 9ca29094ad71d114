"""Examination: over-erasure, and the distance to retraining."""

from __future__ import annotations

import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.runs.labels import ORIGINAL


def orders(runs: pd.DataFrame) -> pd.DataFrame:
    """The mean rank of each method over all cells (task, model, removed samples; 1 is best) by three readings of "unlearned well".

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
    """The share of runs of each method (percent) whose forget loss ends above the retrained model's by more than 0.05 nats, and
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
