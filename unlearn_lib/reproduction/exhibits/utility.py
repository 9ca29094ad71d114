"""The utility tables (3, 4, 5 and 9): change of accuracy and exposure beside the reported numbers, losses, and distances."""

from __future__ import annotations

import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits.cells import cells, model_names, printed_number
from unlearn_lib.reproduction.exhibits.frames import over_seeds, with_rises
from unlearn_lib.reproduction.runs.labels import ORIGINAL


def beside_reported(runs: pd.DataFrame) -> pd.DataFrame:
    """The paper's utility table and this repository's: one row for each size, method, family and number of removed samples.

    A model of a size here stands for the paper's model of that size, the samples of one cycle here for the paper's 128.
    """
    ours = over_seeds(runs[runs.method != ORIGINAL], ["delta_acc", "delta_exp"])
    ours = ours.assign(paper_removed=ours.removed // runs.removed.min() * paper.CYCLE_SIZE)
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
            "model": model_names(table),
            "name here": runs.profile.iloc[0] + "/" + table.family + "-" + table["size"],
            "accuracy (%)": cells(table, "accuracy", 1, sign=False),
            "loss, training texts": cells(table, "retain_loss", 3, sign=False),
            "loss, held-out texts": cells(table, "holdout_loss", 3, sign=False),
            "chance (%)": table.task.map(paper.CHANCE),
            "seeds": table.seeds,
        }
    ).set_index(["task", "model"])


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
    """The rise of each loss (nats, mean ± sd over seeds), and the damage ratio of the mean rises."""
    measures = ["forget_rise", "retain_rise", "holdout_rise"]
    table = over_seeds(with_rises(runs), measures)
    ratio = table.retain_rise_mean / table.forget_rise_mean
    return pd.DataFrame(
        {
            "task": table.task.map(paper.TASKS),
            "model": model_names(table),
            "removed": table.removed,
            "method": table.method.map(paper.METHODS),
            "forget rise": cells(table, "forget_rise", 3),
            "retain rise": cells(table, "retain_rise", 3),
            "held-out rise": cells(table, "holdout_rise", 3),
            # where the forget loss hardly moves, a ratio says nothing
            "damage ratio": [
                f"{r + 0.0:.2f}" if rise > 0.02 else "" for r, rise in zip(ratio.round(2), table.forget_rise_mean, strict=True)
            ],
        }
    ).set_index(["task", "model", "removed", "method"])


def distances(runs: pd.DataFrame) -> pd.DataFrame:
    """How far each model is from the retrained one (divergence of the next token, nats, mean ± sd over seeds), and the loss
    attack's AUC between forgotten and held-out texts; retraining itself is at 0 and about 0.5."""
    table = over_seeds(runs, ["forget_kl", "retain_kl", "holdout_kl", "attack_auc"])
    return pd.DataFrame(
        {
            "model": model_names(table),
            "removed": table.removed,
            "method": table.method.map(paper.METHODS),
            "KL, forgotten": cells(table, "forget_kl", 3, sign=False),
            "KL, retained": cells(table, "retain_kl", 3, sign=False),
            "KL, held-out": cells(table, "holdout_kl", 3, sign=False),
            "attack AUC": cells(table, "attack_auc", 2, sign=False),
        }
    ).set_index(["model", "removed", "method"])


def counts(compared: pd.DataFrame) -> pd.DataFrame:
    """For every method, in how many of the table's cells it erases more than retraining, and in how many it costs 5 points or more.

    Those of this repository (means over seeds) and the paper's (one printed number each), over the same cells.
    """
    rows = []
    cells = ["task", "size", "family", "removed"]
    for source, prefix, suffix in ((paper.HERE, "", "_mean"), ("paper", "paper_", "")):
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


def layout(compared: pd.DataFrame) -> pd.DataFrame:
    """`beside_reported` as text: a row for each model, number of removed samples (the paper's in brackets) and method."""
    table = pd.DataFrame(
        {
            "model (stands for)": [
                f"{paper.model_name(family, size)} ({paper.SIZES[size]})"
                for family, size in zip(compared.family, compared["size"], strict=True)
            ],
            "removed": [f"{ours} ({theirs})" for ours, theirs in zip(compared.removed, compared.paper_removed, strict=True)],
            "method": compared.method.map(paper.METHODS),
            f"ΔACC, {paper.HERE}": cells(compared, "delta_acc", 2),
            "ΔACC, paper": compared.paper_delta_acc.map(printed_number),
            f"ΔEXP, {paper.HERE}": cells(compared, "delta_exp", 2),
            "ΔEXP, paper": compared.paper_delta_exp.map(printed_number),
        }
    )
    order = compared.assign(place=compared["size"].map(list(paper.SIZES).index)).sort_values(
        ["family", "place", "removed"], kind="stable"
    )
    return table.loc[order.index].set_index(["model (stands for)", "removed", "method"])
