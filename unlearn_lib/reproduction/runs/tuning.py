"""What the step factor of a profile was chosen from."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.runs.bench import Bench
from unlearn_lib.reproduction.runs.grids import scenario
from unlearn_lib.reproduction.runs.profile import Profile
from unlearn_lib.reproduction.runs.profiles import NANO, STEP_FACTORS


def tune(profile: Profile = NANO, seed: int = 1000) -> pd.DataFrame:
    """The forget loss after one cycle of Fisher Removal on ARC for every step factor, beside the retrained model's, for the small
    models: what `step_factor` was chosen from."""
    rows = []
    for model in (profile.models[f"{family}-s"] for family in profile.families):
        retrain = scenario("arc_easy", model, seed, "retrain", cycles=1, profile=profile)
        bench = Bench(retrain)
        gold = bench.run(retrain)[0]["after"][0]
        for factor in STEP_FACTORS:
            run = replace(retrain, method="fisher-removal", options={"preset": "paper", "step": paper.REMOVAL_STEP * factor})
            after = bench.run(run)[0]["after"][0]
            rows.append(
                {"model": model, "factor": factor, "forget_loss": after["forget_loss"], "retrained": gold["forget_loss"]}
            )
    return pd.DataFrame(rows)
