"""Examination: block width and terms, what they cost and buy."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd

from unlearn_lib.reproduction.exhibits.sweeps import looks
from unlearn_lib.reproduction.runs.profile import Profile
from unlearn_lib.reproduction.runs.profiles import NANO


def figure(table: pd.DataFrame, width: int, terms: int, profile: Profile = NANO) -> Any:
    """The damage ratio over block widths B at one number of terms (left), and over numbers of terms m at one width (right)."""
    drawn, (left, right) = plt.subplots(1, 2, figsize=(7, 2.8), sharey=True, layout="constrained")
    for family, look in looks(profile).items():
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
    return drawn
