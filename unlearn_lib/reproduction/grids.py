"""Which runs stand behind which table or figure, in the nano profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from unlearn_lib.reproduction import case_grids
from unlearn_lib.reproduction.scenarios import ORIGINAL, PRIVATE, Scenario
from unlearn_lib.reproduction.settings import LEARNING_RATE, STEP_FACTOR, options, scenario

TASKS = ("arc_easy", "piqa", "mathqa", "lambada")
FAMILIES = ("neo", "opt")
SEEDS = {"s": (0, 1, 2), "m": (0, 1, 2), "l": (0,)}
SIZES = dict.fromkeys(TASKS, ("s", "m", "l"))
"""The sizes whose records are committed."""
APPROXIMATE = ("gradient-ascent", "gradient-ascent-adam", "fisher-removal", "fisher-forgetting", "fisher-removal-calibrated")

DAMPINGS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8)
WIDTHS = (1, 8, 48, 192)
TERMS = (32, 64, 128, 256, 448)
EPSILONS = (0.1, 1.0, 10.0, 100.0, 1000.0)
SWEPT: dict[str, list[dict[str, Any]]] = {
    "gradient-ascent": [{"preset": "paper", "step": k * 1e-5 * STEP_FACTOR} for k in (1, 2, 3, 5, 7)],
    "gradient-ascent-adam": [{"step": k * LEARNING_RATE["s"] / 5, "optimizer": "adam"} for k in (1, 2, 3, 5, 7)],
    "fisher-removal": [{"preset": "paper", "step": k * 1e-4 * STEP_FACTOR} for k in (1, 1.5, 2, 2.5, 3, 4)],
    "fisher-forgetting": [{"preset": "paper", "sigma": k * 1e-3} for k in (1, 2, 3, 5, 7)],
    PRIVATE: [{"epsilon": epsilon, "learning_rate": LEARNING_RATE["s"]} for epsilon in EPSILONS],
}
"""Figure 3's strengths: the paper's ranges, step lengths times the factor of all step lengths."""


def utility(task: str, sizes: Sequence[str] | None = None) -> list[Scenario]:
    """A utility table: every method over two cycles, both families, by default in the sizes whose records are committed."""
    return [
        scenario(task, f"nano/{family}-{size}", seed, method)
        for size in sizes or SIZES[task]
        for family in FAMILIES
        for seed in SEEDS[size]
        for method in options(size)
    ]


def all_utility() -> list[Scenario]:
    """The utility tables."""
    return [run for task in TASKS for run in utility(task)]


def originals() -> list[Scenario]:
    """The original models of all tasks."""
    return [run for run in all_utility() if run.method == ORIGINAL]


def cycles() -> list[Scenario]:
    """Figure 5: the approximate methods over four cycles."""
    return [
        scenario(task, "nano/neo-s", seed, method, cycles=4)
        for task in ("lambada", "piqa")
        for seed in SEEDS["s"]
        for method in (ORIGINAL, *APPROXIMATE)
    ]


def tradeoff() -> list[Scenario]:
    """Figure 3: every method over its strengths, one cycle; retraining and the calibrated method, which have none, once."""
    sizes = options("s")
    swept = {**SWEPT, **{method: [sizes[method]] for method in (ORIGINAL, "retrain", "fisher-removal-calibrated")}}
    return [
        replace(scenario(task, "nano/opt-s", seed, ORIGINAL, cycles=1), method=method, options=values)
        for task in ("lambada", "piqa")
        for seed in SEEDS["s"]
        for method, strengths in swept.items()
        for values in strengths
    ]


def activations() -> list[Scenario]:
    """Both families with the other one's activation function, beside their own from the utility table."""
    methods = (ORIGINAL, "retrain", "gradient-ascent", "fisher-removal", "fisher-removal-calibrated")
    swapped = {"neo": ("", "relu"), "opt": ("", "gelu_new")}
    return [
        scenario("arc_easy", f"nano/{family}-s", seed, method, activation=activation)
        for family in FAMILIES
        for activation in swapped[family]
        for seed in SEEDS["s"]
        for method in methods
    ]


def damping() -> list[Scenario]:
    """The paper's algorithm over dampings and with the identity in place of the inverse Fisher, each to the same forget loss."""
    strengths: list[dict[str, Any]] = [{"solver": "identity"}]
    for value in DAMPINGS:
        precise = {"precision": "float64"} if value < 1e-2 else {}  # the recursion starts from I / damping
        strengths.append({"preset": "paper", "damping": value, **precise})
    return _calibrated(strengths)


def blocks() -> list[Scenario]:
    """Our blocks over widths B, and at the usual width over numbers of terms m, each to the same forget loss."""
    swept = [(width, 256) for width in WIDTHS] + [(48, terms) for terms in TERMS if terms != 256]
    return _calibrated([{"solver": "block", "width": width, "terms": terms} for width, terms in swept])


def _calibrated(strengths: Sequence[dict[str, Any]]) -> list[Scenario]:
    """One step of removal for each set of options, its length calibrated, however large the damage."""
    shared = {"step": "calibrate", "steps": 1, "retain_limit": None}
    return [
        replace(scenario("arc_easy", f"nano/{family}-s", seed, ORIGINAL, cycles=1), method=method, options=values)
        for family in FAMILIES
        for seed in SEEDS["s"]
        for method, values in [(ORIGINAL, {}), ("retrain", options("s")["retrain"])]
        + [("fisher-removal", {**shared, **strength}) for strength in strengths]
    ]


def weights() -> list[Scenario]:
    """Figure 4: the last layer's weights after one cycle."""
    return [
        scenario("arc_easy", "nano/neo-s", seed, method, cycles=1, detail="weights")
        for seed in SEEDS["s"]
        for method in (ORIGINAL, *APPROXIMATE)
    ]


def onion() -> list[Scenario]:
    """Figure 6: the most exposed samples are dropped, the model retrained."""
    return [scenario("arc_easy", "nano/neo-s", seed, ORIGINAL, cycles=1, detail="onion") for seed in SEEDS["s"]]


def exposure_histograms() -> list[Scenario]:
    """Figure 7: the exposure of every training sample before and after one cycle."""
    return [
        scenario("arc_easy", "nano/neo-s", seed, method, cycles=1, detail="exposures")
        for seed in SEEDS["s"]
        for method in (ORIGINAL, "retrain", *APPROXIMATE)
    ]


GRIDS: dict[str, Callable[[], Sequence[Scenario]]] = {
    "table03": lambda: [*utility("arc_easy"), *originals()],
    "table04": lambda: utility("piqa"),
    "table05": lambda: utility("mathqa"),
    "table07": all_utility,
    "table09": lambda: utility("lambada"),
    "fig02": lambda: [run for run in all_utility() if run.model == "nano/neo-s"],
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
}


def grid(identifier: str) -> Sequence[Scenario]:
    """The runs behind an id of the inventory; none for a notebook that only computes live."""
    return GRIDS[identifier]() if identifier in GRIDS else []
