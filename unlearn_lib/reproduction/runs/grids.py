"""Which runs stand behind which table or figure, in a profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.runs import case_grids
from unlearn_lib.reproduction.runs.labels import ORIGINAL, PRIVATE
from unlearn_lib.reproduction.runs.options import options, training
from unlearn_lib.reproduction.runs.profile import Profile
from unlearn_lib.reproduction.runs.profiles import NANO
from unlearn_lib.reproduction.runs.scenarios import Scenario

TASKS = ("arc_easy", "piqa", "mathqa", "lambada")
APPROXIMATE = ("gradient-ascent", "gradient-ascent-adam", "fisher-removal", "fisher-forgetting", "fisher-removal-calibrated")

DAMPINGS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8)
WIDTHS = (1, 8, 48, 192)
TERMS = (32, 64, 128, 256, 448)


def swept(profile: Profile = NANO) -> dict[str, list[dict[str, Any]]]:
    """Figure 3's strengths, for small models: the paper's ranges, step lengths times the factor of all step lengths."""
    rate, factor = profile.learning_rate["s"], profile.step_factor

    def lengths(method: str) -> list[float]:
        unit, numbers = paper.SWEPT[method]
        return [number * unit for number in numbers]

    return {
        "gradient-ascent": [{"preset": "paper", "step": length * factor} for length in lengths("gradient-ascent")],
        "gradient-ascent-adam": [{"step": k * rate / 5, "optimizer": "adam"} for k in paper.SWEPT["gradient-ascent"][1]],
        "fisher-removal": [{"preset": "paper", "step": length * factor} for length in lengths("fisher-removal")],
        "fisher-forgetting": [{"preset": "paper", "sigma": sigma} for sigma in lengths("fisher-forgetting")],
        PRIVATE: [{"epsilon": epsilon, "learning_rate": rate, **profile.private} for epsilon in paper.EPSILONS],
    }


def scenario(
    task: str, model: str, seed: int, method: str, cycles: int = 2, profile: Profile = NANO, **changes: Any
) -> Scenario:
    """One run with a profile's settings; `model` is one of the profile's."""
    size = profile.family_and_size(model)[1]
    return Scenario(
        task,
        model,
        seed,
        method,
        training(size, profile),
        options(size, profile)[method],
        cycles,
        profile.cycle_size,
        train_size=profile.train_sizes[task],
        test_size=profile.test_size,
        holdout_size=profile.holdout_size,
        reference_size=profile.reference_size,
        measured=profile.measured,
        profile=profile.name,
        **changes,
    )


def utility(task: str, sizes: Sequence[str] | None = None, *, profile: Profile = NANO) -> list[Scenario]:
    """A utility table: every method over two cycles, both families, by default in the sizes that the profile's table has."""
    return [
        scenario(task, profile.models[f"{family}-{size}"], seed, method, profile=profile)
        for size in sizes or profile.sizes[task]
        for family in profile.families
        for seed in profile.seeds[size]
        for method in options(size, profile)
    ]


def all_utility(profile: Profile = NANO) -> list[Scenario]:
    """The utility tables."""
    return [run for task in TASKS for run in utility(task, profile=profile)]


def originals(profile: Profile = NANO) -> list[Scenario]:
    """The original models of all tasks."""
    return [run for run in all_utility(profile) if run.method == ORIGINAL]


def runtimes(profile: Profile = NANO) -> list[Scenario]:
    """Figure 2: the utility tables' runs of the small GPT-Neo."""
    return [run for run in all_utility(profile) if run.model == profile.models["neo-s"]]


def cycles(profile: Profile = NANO) -> list[Scenario]:
    """Figure 5: the approximate methods over four cycles."""
    return [
        scenario(task, profile.models["neo-s"], seed, method, cycles=4, profile=profile)
        for task in ("lambada", "piqa")
        for seed in profile.seeds["s"]
        for method in (ORIGINAL, *APPROXIMATE)
    ]


def tradeoff(profile: Profile = NANO) -> list[Scenario]:
    """Figure 3: every method over its strengths, one cycle; retraining and the calibrated method, which have none, once."""
    usual = options("s", profile)
    strengths = {
        **swept(profile),
        **{method: [usual[method]] for method in (ORIGINAL, "retrain", "fisher-removal-calibrated")},
    }
    return [
        replace(
            scenario(task, profile.models["opt-s"], seed, ORIGINAL, cycles=1, profile=profile), method=method, options=values
        )
        for task in ("lambada", "piqa")
        for seed in profile.seeds["s"]
        for method, several in strengths.items()
        for values in several
    ]


def activations(profile: Profile = NANO) -> list[Scenario]:
    """Both families with the other one's activation function, beside their own from the utility table."""
    methods = (ORIGINAL, "retrain", "gradient-ascent", "fisher-removal", "fisher-removal-calibrated")
    swapped = {"neo": ("", "relu"), "opt": ("", "gelu_new")}
    return [
        scenario("arc_easy", profile.models[f"{family}-s"], seed, method, profile=profile, activation=activation)
        for family in profile.families
        for activation in swapped[family]
        for seed in profile.seeds["s"]
        for method in methods
    ]


def damping(profile: Profile = NANO) -> list[Scenario]:
    """The paper's algorithm over dampings and with the identity in place of the inverse Fisher, each to the same forget loss."""
    strengths: list[dict[str, Any]] = [{"solver": "identity"}]
    for value in DAMPINGS:
        precise = {"precision": "float64"} if value < 1e-2 else {}  # the recursion starts from I / damping
        strengths.append({"preset": "paper", "damping": value, **precise})
    return _calibrated(strengths, profile)


def blocks(profile: Profile = NANO) -> list[Scenario]:
    """Our blocks over widths B, and at the usual width over numbers of terms m, each to the same forget loss."""
    both = [(width, 256) for width in WIDTHS] + [(48, terms) for terms in TERMS if terms != 256]
    return _calibrated([{"solver": "block", "width": width, "terms": terms} for width, terms in both], profile)


def _calibrated(strengths: Sequence[dict[str, Any]], profile: Profile) -> list[Scenario]:
    """One step of removal for each set of options, its length calibrated, however large the damage."""
    shared = {"step": "calibrate", "steps": 1, "retain_limit": None}
    return [
        replace(
            scenario("arc_easy", profile.models[f"{family}-s"], seed, ORIGINAL, cycles=1, profile=profile),
            method=method,
            options=values,
        )
        for family in profile.families
        for seed in profile.seeds["s"]
        for method, values in [(ORIGINAL, {}), ("retrain", options("s", profile)["retrain"])]
        + [("fisher-removal", {**shared, **strength}) for strength in strengths]
    ]


def weights(profile: Profile = NANO) -> list[Scenario]:
    """Figure 4: the last layer's weights after one cycle."""
    return _small_neo(profile, (ORIGINAL, *APPROXIMATE), "weights")


def onion(profile: Profile = NANO) -> list[Scenario]:
    """Figure 6: the most exposed samples are dropped, the model retrained."""
    return _small_neo(profile, (ORIGINAL,), "onion")


def exposure_histograms(profile: Profile = NANO) -> list[Scenario]:
    """Figure 7: the exposure of every training sample before and after one cycle."""
    return _small_neo(profile, (ORIGINAL, "retrain", *APPROXIMATE), "exposures")


def _small_neo(profile: Profile, methods: Sequence[str], detail: str) -> list[Scenario]:
    return [
        scenario("arc_easy", profile.models["neo-s"], seed, method, cycles=1, profile=profile, detail=detail)
        for seed in profile.seeds["s"]
        for method in methods
    ]


GRIDS: dict[str, Callable[[Profile], Sequence[Scenario]]] = {
    "table03": lambda profile: [*utility("arc_easy", profile=profile), *originals(profile)],
    "table04": lambda profile: utility("piqa", profile=profile),
    "table05": lambda profile: utility("mathqa", profile=profile),
    "table07": all_utility,
    "table09": lambda profile: utility("lambada", profile=profile),
    "fig02": runtimes,
    "fig03": tradeoff,
    "fig04": weights,
    "fig05": cycles,
    "fig06": onion,
    "fig07": exposure_histograms,
    "damping": damping,
    "blocks": blocks,
    "activations": activations,
    "table08": case_grids.case_studies,
    "table10": case_grids.case_studies,
    "duplicates": case_grids.deduplication,
    "ch08": damping,
    "ch09": lambda profile: utility("arc_easy", profile=profile),
    "ch10": tradeoff,
    "ch11": lambda profile: utility("arc_easy", profile=profile),
}


def grid(identifier: str, profile: Profile = NANO) -> Sequence[Scenario]:
    """The runs behind an id of the inventory; none for a notebook that only computes live."""
    return GRIDS[identifier](profile) if identifier in GRIDS else []
