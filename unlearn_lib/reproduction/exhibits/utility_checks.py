"""What Tables 3, 4, 5 and 9 have in common: statements that are checked on each of their pages, and the table of the live part."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from unlearn_lib.checks import check
from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits.utility import nearest

MEASURES = {
    "forget_loss": "forget loss (nats)",
    "retain_loss": "retain loss (nats)",
    "holdout_loss": "held-out loss (nats)",
    "accuracy": "accuracy (%)",
    "attack_auc": "attack AUC",
    "exposure_nats": "exposure (nats)",
    "retain_kl": "KL to retraining, retained (nats)",
    "cosine_to_gradient": "cosine of the step and the gradient",
    "gradient_evaluations": "gradients of single texts",
}
"""The measures of the live part and their names."""


def live_states(before: Mapping[str, float], after: Mapping[str, float]) -> pd.DataFrame:
    """What was measured before and after one cycle: a row for each of `MEASURES`, a dash where it was not measured."""
    rows = {
        name: [f"{state[measure]:.3f}" if measure in state else "–" for state in (before, after)]
        for measure, name in MEASURES.items()
    }
    return pd.DataFrame(rows, index=["before", "after"]).T.rename_axis("measure")


def alike(changes: pd.DataFrame) -> None:
    """Check what holds in all four tables, and print it with the values of this one.

    Args:
        changes: `utility.changes` of the table's runs.

    Raises:
        DoesNotHoldError: A statement does not hold.
    """
    cells = ["removed", "size", "family"]
    by = {name: group.set_index(cells) for name, group in changes.groupby("method")}
    retrain, calibrated = by["retrain"], by["fisher-removal-calibrated"]
    attack = retrain.attack_auc_mean.max()
    check(f"Retraining brings the attack to an AUC of at most {attack:.2f}.", attack <= 0.55)
    rise = by["finetune"].delta_exp_mean.min()
    check(f"Finetuning raises exposure in every cell, by {rise:.2f} nats or more.", rise >= 0)
    tuned = by["finetune"]
    share = tuned.forget_rise_mean / retrain.forget_rise_mean
    attack = tuned.attack_auc_mean
    check(
        f"Finetuning raises the forget loss {share.min():.2f} to {share.max():.2f} times as far as retraining, and leaves the attack "
        f"an AUC of {attack.min():.2f} to {attack.max():.2f}.",
        share.between(0.3, 0.6).all() and attack.min() > 0.6,
    )
    rise = by["fisher-forgetting"].forget_rise_mean.max()
    check(f"Fisher Forgetting raises the forget loss by at most {rise:.3f} nats.", rise <= 0.05)
    gap = (calibrated.forget_loss_mean - retrain.forget_loss_mean).abs().max()
    check(f"With a calibrated step the forget loss ends within {gap:.3f} nats of the retrained model's.", gap <= 0.06)
    damage = calibrated.damage
    check(f"With a calibrated step the damage ratio is {damage.min():.2f} to {damage.max():.2f}.", damage.max() <= 0.165)
    (name,) = nearest(changes).index
    check(
        f"Of the methods with an attack AUC of 0.6 or less, {name} is nearest to retraining in every cell.",
        name == paper.METHODS["fisher-removal-calibrated"],
    )
