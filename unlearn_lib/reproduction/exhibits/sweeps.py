"""What the examinations of damping and of blocks share: sweeps to the same forget loss, so that only the damage differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from unlearn_lib.reproduction.exhibits import frames
from unlearn_lib.reproduction.runs.profile import Profile
from unlearn_lib.reproduction.runs.record import CyclesRecord

LOOKS = {
    "neo": {"color": "#0072B2", "marker": "D"},
    "opt": {"color": "#D55E00", "marker": "v"},
}
MEASURES = ["damage", "forget_rise", "retain_rise", "attack_auc", "retain_kl", "cosine_to_gradient", "gradient_evaluations"]


def sweep(records: Sequence[CyclesRecord], names: Sequence[str]) -> pd.DataFrame:
    """One row for each run of one cycle but the originals': `frames.with_rises` with the options in `names`, and the damage ratio
    (rise on retained over rise on forgotten texts)."""
    runs = frames.tidy(records)
    for name in names:
        runs[name] = [record["config"]["options"].get(name) for record in records]
    changed = frames.with_rises(runs)
    return changed.assign(damage=changed.retain_rise / changed.forget_rise)


def means(runs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Means and sample standard deviations of all measures over the seeds, for each family and value of `by`."""
    return frames.by_groups(runs, ["family", *by], MEASURES)


def looks(profile: Profile) -> dict[str, dict[str, Any]]:
    """Colour, marker and label of each family of models."""
    return {family: {**look, "label": f"{profile.name}/{family}-s"} for family, look in LOOKS.items()}
