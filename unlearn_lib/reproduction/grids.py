"""Which runs stand behind which table or figure, in the nano profile."""

from __future__ import annotations

from collections.abc import Sequence

from unlearn_lib.reproduction.scenarios import ORIGINAL, Scenario
from unlearn_lib.reproduction.settings import options, scenario

TASKS = ("arc_easy", "piqa", "lambada")
"""The tasks whose records are committed."""
FAMILIES = ("neo", "opt")
SEEDS = {"s": (0, 1, 2), "m": (0, 1, 2), "l": (0,)}
SIZES = ("s",)
"""The sizes whose records are committed."""
APPROXIMATE = ("gradient-ascent", "gradient-ascent-adam", "fisher-removal", "fisher-forgetting", "fisher-removal-calibrated")


def utility(task: str, sizes: Sequence[str] = SIZES) -> list[Scenario]:
    """A utility table: every method over two cycles, both families."""
    return [
        scenario(task, f"nano/{family}-{size}", seed, method)
        for size in sizes
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


GRIDS = {
    "table03": lambda: [*utility("arc_easy"), *originals()],
    "table04": lambda: utility("piqa"),
    "table07": all_utility,
    "table09": lambda: utility("lambada"),
    "fig02": lambda: [run for run in all_utility() if run.model == "nano/neo-s"],
    "fig04": weights,
    "fig05": cycles,
    "fig06": onion,
    "fig07": exposure_histograms,
}


def grid(identifier: str) -> list[Scenario]:
    """The runs behind an id of the inventory; none for a notebook that only computes live."""
    return GRIDS[identifier]() if identifier in GRIDS else []
