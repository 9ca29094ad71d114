"""What the verdicts are read from: the records of all grids, and differences between methods with intervals, of this repository
and of the paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits import fig03_tradeoff, frames, sweeps, table08_cases
from unlearn_lib.reproduction.exhibits.intervals import Interval, clustered
from unlearn_lib.reproduction.runs import case_grids, counts, grids
from unlearn_lib.reproduction.runs.profiles import NANO
from unlearn_lib.reproduction.runs.scenarios import Scenario
from unlearn_lib.reproduction.verdicts.accuracy import able, above_chance

CELL = ["task", "family", "size", "removed"]


class Effect(NamedTuple):
    """A mean over cells with its interval, of this repository and, where the paper prints the cells, of the paper."""

    ours: Interval
    cells: int
    paper: Interval | None = None


class Evidence:
    """The records of the nano profile, loaded when first asked for.

    Args:
        records: Returns the records of scenarios, as `Session.records`; of which kind they are follows from the scenarios.
    """

    def __init__(self, records: Callable[[Sequence[Scenario]], list[Any]]) -> None:
        self.records = records

    @cached_property
    def utility(self) -> pd.DataFrame:
        """All runs of the utility tables."""
        return frames.with_rises(frames.tidy(self.records(grids.all_utility())))

    @cached_property
    def originals(self) -> pd.DataFrame:
        """The original models of the utility tables."""
        return frames.tidy(self.records(grids.originals()))

    @cached_property
    def above_chance(self) -> pd.Series:
        """How many points more than chance the original models answer, by task, family and size."""
        return above_chance(self.originals)

    @cached_property
    def cycles(self) -> pd.DataFrame:
        """The runs over four cycles."""
        return frames.with_rises(frames.tidy(self.records(grids.cycles())))

    @cached_property
    def damping(self) -> pd.DataFrame:
        """The runs over dampings."""
        return sweeps.sweep(self.records(grids.damping()), ["solver", "damping"])

    @cached_property
    def blocks(self) -> pd.DataFrame:
        """The runs over block widths and terms."""
        return sweeps.sweep(self.records(grids.blocks()), ["width", "terms"])

    @cached_property
    def tradeoff(self) -> pd.DataFrame:
        """The runs of Figure 3."""
        return fig03_tradeoff.runs(self.records(grids.tradeoff()))

    @cached_property
    def cases(self) -> pd.DataFrame:
        """What came back of private texts in every run of the case studies."""
        return table08_cases.counts(table08_cases.texts(self.records(case_grids.case_studies())))

    @cached_property
    def deduplication(self) -> pd.DataFrame:
        """What came back in every run over rates of near-duplicates, the request as it is and extended by them."""
        return table08_cases.counts(table08_cases.texts(self.records(case_grids.deduplication())))

    @cached_property
    def printed(self) -> pd.DataFrame:
        """The paper's utility tables in the form of this repository's; ascent stands for both readings of it."""
        table = paper.reported("utility_and_exposure")
        return table.assign(removed=table.removed * NANO.cycle_size // paper.CYCLE_SIZE)

    @cached_property
    def fisher_costs(self) -> dict[str, pd.DataFrame]:
        """Gradients of the Fisher methods, counted now while t and m are doubled, one at a time and together: with all removed texts
        in "one batch", and in "batches of 4" texts, each of which has its own Fisher."""
        return {"one batch": counts.sweep((8, 16), (8, 16)), "batches of 4": counts.sweep((8, 16), (8, 16), batch=4)}

    @cached_property
    def other_costs(self) -> pd.DataFrame:
        """Gradients of the other methods (rows), counted now: "first", with t doubled, and with r doubled."""
        settings = {"first": (4, 8, 1), "t": (8, 8, 1), "r": (4, 16, 1)}
        counted = counts.growth(list(settings.values()), methods=counts.OTHERS).set_index(["method", "t", "r", "m"])
        table = counted.gradients.unstack(["t", "r", "m"])
        return pd.DataFrame({name: table[setting] for name, setting in settings.items()})

    def ratios(self, method: str, other: str, size: str) -> pd.Series:
        """The ratio of two methods' seconds in the first cycle, for each task and family of one size."""
        first = self.utility[(self.utility.removed == NANO.cycle_size) & (self.utility["size"] == size)]
        mean = first.groupby(["method", "task", "family", "size"]).seconds.mean()
        found: pd.Series[float] = mean[method] / mean[other]
        return found

    def seconds(self, method: str, other: str) -> tuple[Interval, pd.Series]:
        """The ratio of two methods' seconds in the first cycle, of the smallest models as in the paper: here, its interval over tasks
        and families, and the paper's by task."""
        theirs = paper.printed("runtime").set_index(["method", "task"]).seconds
        return clustered(self.ratios(method, other, "s")), theirs[method] / theirs[other]

    def cells(self, table: pd.DataFrame, method: str, measure: str, removed: int | None = None) -> pd.Series:
        """A measure of a method in each cell (task, model, removed samples) of the utility tables, the mean over its seeds.

        The change of accuracy is left out where the original model has nothing to lose (`accuracy.able`).

        Args:
            table: `utility`, or `printed` for the paper's own cells.
            method, measure: Whose rows, and which column.
            removed: Only the cells with so many removed samples.
        """
        chosen = table[table.method == method]
        if removed is not None:
            chosen = chosen[chosen.removed == removed]
        if measure == "delta_acc":
            chosen = able(chosen, self.above_chance)
        return chosen.groupby(CELL)[measure].mean()

    def level(self, method: str, measure: str, removed: int | None = None) -> Effect:
        """The mean of a measure over the cells (task, model, removed samples) of the utility tables."""
        ours = self.cells(self.utility, method, measure, removed)
        theirs = self.cells(self.printed, method, measure, removed) if measure in self.printed else None
        return _effect(ours, theirs)

    def gap(self, method: str, other: str, measure: str, removed: int | None = None) -> Effect:
        """The mean difference of two methods, cell by cell."""
        ours = self.cells(self.utility, method, measure, removed) - self.cells(self.utility, other, measure, removed)
        theirs = None
        if measure in self.printed:
            theirs = self.cells(self.printed, method, measure, removed) - self.cells(self.printed, other, measure, removed)
        return _effect(ours, theirs)

    def second_cycle(self, method: str, measure: str) -> Effect:
        """How much further a second cycle takes a method than the first: the mean difference over task and model."""
        first, second = NANO.cycle_size, 2 * NANO.cycle_size

        def growth(table: pd.DataFrame) -> pd.Series:
            cells = self.cells(table, method, measure)
            return cells.xs(second, level="removed") - cells.xs(first, level="removed")

        return _effect(growth(self.utility), growth(self.printed) if measure in self.printed else None)


def _effect(ours: pd.Series, theirs: pd.Series | None) -> Effect:
    return Effect(clustered(ours), len(ours), None if theirs is None else clustered(theirs))


def paired_ratio(one: pd.DataFrame, other: pd.DataFrame, measure: str) -> Effect:
    """The mean ratio of a measure between two selections of a sweep's runs, paired by task, family and seed."""
    keys = ["task", "family", "seed"]
    quotient = one.set_index(keys)[measure] / other.set_index(keys)[measure]
    return Effect(clustered(quotient), len(quotient))
