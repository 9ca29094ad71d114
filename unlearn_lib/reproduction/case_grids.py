"""The runs of the case studies: Table 8, and leftover memorisation against the rate of near-duplicates."""

from __future__ import annotations

from typing import Any

from unlearn_lib.data.tasks import NEAR_DUPLICATES
from unlearn_lib.reproduction.cases import Case
from unlearn_lib.reproduction.paper import FAMILIES
from unlearn_lib.reproduction.profiles import NANO
from unlearn_lib.reproduction.scenarios import ORIGINAL
from unlearn_lib.reproduction.settings import methods
from unlearn_lib.training import TrainingConfig

TASKS = ("medical", "email")
SEEDS = (0, 1, 2)
TRAINING = TrainingConfig(25, 4e-3, 4)
"""25 epochs, where the paper has 15. Tried before: after 20 on 192 notes OPT gave none of 32 back, after 30 on 128 nearly all."""
STEP_FACTOR = 16_000
"""Of the paper's step lengths: of 2000, 4000, ... 64000 the smallest at which Fisher Removal brings the forget loss to the retrained
model's on medical notes (OPT, seed 1000: 0.77 to 0.68). On mails (GPT-Neo, same seed) it reaches half of it, 0.50 of 1.07."""
RATES = (0.0, NEAR_DUPLICATES, 0.5)
DEDUPLICATED = ("retrain", "fisher-removal", "fisher-removal-calibrated")


def options() -> dict[str, dict[str, Any]]:
    """Every row of Table 8 with its options. Our own takes four short steps, the library's default: where texts are known by heart
    one step ends at the retain limit."""
    rows = methods(TRAINING, STEP_FACTOR)
    rows["fisher-removal-calibrated"]["steps"] = 4
    return rows


def case(task: str, model: str, seed: int, method: str, **changes: Any) -> Case:
    """One run."""
    return Case(
        task,
        model,
        seed,
        method,
        TRAINING,
        options()[method],
        cycle_size=NANO.cycle_size,
        holdout_size=128,
        measured=64,
        **changes,
    )


def case_studies() -> list[Case]:
    """Table 8: every method on both tasks and both families."""
    return [
        case(task, f"nano/{family}-s", seed, method)
        for task in TASKS
        for family in FAMILIES
        for seed in SEEDS
        for method in options()
    ]


def deduplication() -> list[Case]:
    """OPT on medical notes, at every rate of near-duplicates, the request as it is and extended by its near-duplicates."""
    plain = [
        case("medical", "nano/opt-s", seed, method, duplicates=rate)
        for rate in RATES
        for seed in SEEDS
        for method in (ORIGINAL, *DEDUPLICATED)
    ]
    extended = [
        case("medical", "nano/opt-s", seed, method, duplicates=rate, deduplicate=True)
        for rate in RATES
        if rate
        for seed in SEEDS
        for method in DEDUPLICATED
    ]
    return plain + extended
