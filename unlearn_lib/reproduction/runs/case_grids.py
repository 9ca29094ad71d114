"""The runs of the case studies: Table 8, and leftover memorisation against the rate of near-duplicates."""

from __future__ import annotations

from typing import Any

from unlearn_lib.reproduction.runs.cases import Case
from unlearn_lib.reproduction.runs.labels import ORIGINAL
from unlearn_lib.reproduction.runs.options import methods
from unlearn_lib.reproduction.runs.profile import Profile
from unlearn_lib.reproduction.runs.profiles import NANO

TASKS = ("medical", "email")
DEDUPLICATED = ("retrain", "fisher-removal", "fisher-removal-calibrated")


def options(profile: Profile = NANO) -> dict[str, dict[str, Any]]:
    """Every row of Table 8 with its options. Calibrated Fisher Removal takes four short steps, the library's default: where texts are known
    by heart one step ends at the retain limit."""
    rows = methods(profile.cases.training, profile.cases.step_factor, profile.passes.get("s", 1))
    rows["fisher-removal-calibrated"]["steps"] = 4
    return rows


def case(
    task: str,
    family: str,
    seed: int,
    method: str,
    profile: Profile = NANO,
    rate: float | None = None,
    deduplicate: bool = False,
) -> Case:
    """One run, with the smallest model of a family; `rate` is the share of near-duplicates, by default the profile's."""
    settings = profile.cases
    return Case(
        task,
        profile.models[f"{family}-s"],
        seed,
        method,
        settings.training,
        options(profile)[method],
        cycle_size=profile.cycle_size,
        train_size=settings.train_size,
        holdout_size=settings.holdout_size,
        measured=settings.measured,
        profile=profile.name,
        duplicates=settings.rate if rate is None else rate,
        deduplicate=deduplicate,
    )


def case_studies(profile: Profile = NANO) -> list[Case]:
    """Table 8: every method on both tasks and both families."""
    return [
        case(task, family, seed, method, profile)
        for task in TASKS
        for family in profile.families
        for seed in profile.seeds["s"]
        for method in options(profile)
    ]


def deduplication(profile: Profile = NANO) -> list[Case]:
    """OPT on medical notes, at every rate of near-duplicates, the request as it is and extended by its near-duplicates."""
    return [
        case("medical", "opt", seed, method, profile, rate, extended)
        for extended, compared in ((False, (ORIGINAL, *DEDUPLICATED)), (True, DEDUPLICATED))
        for rate in profile.cases.rates
        # where none are planted and the texts are generated, there is nothing to extend the request by
        if rate or not extended or profile.source != "nano"
        for seed in profile.seeds["s"]
        for method in compared
    ]
