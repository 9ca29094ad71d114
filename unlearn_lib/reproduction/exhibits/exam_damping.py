"""Examination: damping, and the identity in place of the inverse Fisher."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from unlearn_lib.reproduction.exhibits.sweeps import looks
from unlearn_lib.reproduction.runs.profile import Profile
from unlearn_lib.reproduction.runs.profiles import NANO


def figure(table: pd.DataFrame, profile: Profile = NANO) -> Any:
    """The damage ratio (left) and the cosine of step and gradient (right) over dampings; dashed: the identity instead of F^-1."""
    drawn, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
    for family, look in looks(profile).items():
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
    return drawn
