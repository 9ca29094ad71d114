"""Which cells of the tables can show that accuracy is lost: a model that answers hardly more than chance has nothing to lose."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.exhibits.intervals import accuracy_error
from unlearn_lib.reproduction.runs.profiles import NANO

ERROR = accuracy_error(50.0, NANO.test_size)
"""The standard error of an accuracy of one half on the test questions, in points."""
ABOVE_CHANCE = 3 * ERROR
"""Points above chance that an original model needs: a fall all the way to chance is then three standard errors of its accuracy."""
MODEL = ["task", "family", "size"]


def above_chance(originals: pd.DataFrame) -> pd.Series:
    """How many points more than chance the original models answer, in the mean over seeds: a value for each task, family and size.

    Args:
        originals: Runs of the original models, with `task`, `family`, `size` and `accuracy` (percent).
    """
    mean = originals.groupby(MODEL).accuracy.mean()
    chance = mean.index.get_level_values("task").map(paper.CHANCE)
    above: pd.Series[float] = mean - chance.to_numpy()
    return above


def able(table: pd.DataFrame, above: pd.Series) -> pd.DataFrame:
    """The rows of a table whose original model answers at least `ABOVE_CHANCE` points more than chance, so that it can lose some.

    Args:
        table: Rows with `task`, `family` and `size`, of this repository or of the paper.
        above: `above_chance` of the models here; the paper's rows are chosen by the models that stand for its own.
    """
    chosen = above[above >= ABOVE_CHANCE].index
    return table[pd.MultiIndex.from_frame(table[MODEL]).isin(chosen)]


def left_out(above: pd.Series) -> str:
    """The models that are left out, in words: `all 6 models on MathQA and the small GPT-Neo on LAMBADA`."""
    return " and ".join(_of_tasks(above))


def _of_tasks(above: pd.Series) -> Iterator[str]:
    for task, name in paper.TASKS.items():
        mine = above[above.index.get_level_values("task") == task]
        blind = mine[mine < ABOVE_CHANCE]
        if len(mine) and len(blind) == len(mine):
            yield f"all {len(mine)} models on {name}"
        elif len(blind):
            models = " and ".join(f"the {paper.model_name(family, size)}" for _, family, size in blind.index)
            yield f"{models} on {name}"
