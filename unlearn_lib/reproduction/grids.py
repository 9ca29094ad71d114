"""Which runs stand behind which table or figure, in the nano profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from unlearn_lib.reproduction.scenarios import ORIGINAL, PRIVATE, Scenario
from unlearn_lib.reproduction.settings import LEARNING_RATE, STEP_FACTOR, options, scenario

TASKS = ("arc_easy", "piqa", "mathqa", "lambada")
FAMILIES = ("neo", "opt")
SEEDS = {"s": (0, 1, 2), "m": (0, 1, 2), "l": (0,)}
APPROXIMATE = ("gradient-ascent", "gradient-ascent-adam", "fisher-removal", "fisher-forgetting", "fisher-removal-calibrated")

# Figure 3's sweeps: the paper's ranges times the factor of all step lengths
EPSILONS = (0.1, 1.0, 10.0, 100.0, 1000.0)
SWEPT: dict[str, list[dict[str, Any]]] = {
    "gradient-ascent": [{"preset": "paper", "step": k * 1e-5 * STEP_FACTOR} for k in (1, 2, 3, 5, 7)],
    "gradient-ascent-adam": [{"step": k * LEARNING_RATE["s"] / 5, "optimizer": "adam"} for k in (1, 2, 3, 5, 7)],
    "fisher-removal": [{"preset": "paper", "step": k * 1e-4 * STEP_FACTOR} for k in (1, 1.5, 2, 2.5, 3, 4)],
    "fisher-forgetting": [{"preset": "paper", "sigma": k * 1e-3} for k in (1, 2, 3, 5, 7)],
    "fisher-removal-calibrated": [options("s")["fisher-removal-calibrated"]],
    PRIVATE: [{"epsilon": epsilon, "learning_rate": 1e-3} for epsilon in EPSILONS],
}


def utility(task: str, sizes: Sequence[str] = ("s", "m", "l")) -> list[Scenario]:
    """A utility table: every method over two cycles, both families."""
    return [
        scenario(task, f"nano/{family}-{size}", seed, method)
        for size in sizes
        for family in FAMILIES
        for seed in SEEDS[size]
        for method in options(size)
    ]


def all_utility() -> list[Scenario]:
    """The four utility tables."""
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
    """Figure 3: every method over its strengths, one cycle."""
    return [
        replace(scenario(task, "nano/opt-s", seed, ORIGINAL, cycles=1), method=method, options=values)
        for task in ("lambada", "piqa")
        for seed in SEEDS["s"]
        for method, values in [(ORIGINAL, {}), *((name, values) for name, swept in SWEPT.items() for values in swept)]
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


def activations() -> list[Scenario]:
    """Both families with ReLU and with GELU; the family's own comes from the utility grid."""
    methods = (ORIGINAL, "retrain", "gradient-ascent", "fisher-removal", "fisher-removal-calibrated")
    swapped = {"neo": "relu", "opt": "gelu_new"}
    return [
        scenario("arc_easy", f"nano/{family}-s", seed, method, activation=activation)
        for family in FAMILIES
        for activation in ("", swapped[family])
        for seed in SEEDS["s"]
        for method in methods
    ]


GRIDS = {
    "table03": lambda: utility("arc_easy"),
    "table04": lambda: utility("piqa"),
    "table05": lambda: utility("mathqa"),
    "table07": all_utility,
    "table09": lambda: utility("lambada"),
    "fig02": lambda: [run for run in all_utility() if run.model.endswith("neo-s")],
    "fig03": tradeoff,
    "fig04": weights,
    "fig05": cycles,
    "fig06": onion,
    "fig07": exposure_histograms,
    "seeds": lambda: utility("arc_easy", ("s", "m")),
    "erasure": all_utility,
    "units": exposure_histograms,
    "activations": activations,
}


def grid(identifier: str) -> list[Scenario]:
    """The runs behind an id of the inventory; none for a notebook that only computes live."""
    return GRIDS[identifier]() if identifier in GRIDS else []
