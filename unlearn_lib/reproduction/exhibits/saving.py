"""The files of tables and figures, each with what it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from unlearn_lib import plotting
from unlearn_lib.files import write_text
from unlearn_lib.reproduction.runs.record import ScenarioRecord
from unlearn_lib.reproduction.runs.store import key

Source = Sequence[ScenarioRecord] | Mapping[str, Any]
"""Records; or, where something else was drawn, what is to be said of it."""


def save_table(table: pd.DataFrame, name: str, folder: Path, records: Source) -> Path:
    """Write the data of a table as `name.csv`, and what it was made from as `name.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8")
    if isinstance(records, Mapping):
        made_from = dict(records)
    else:
        made_from = {"records": sorted(key(record["config"])[:12] for record in records), "from": provenance_line(records)}
    write_text(folder / f"{name}.json", json.dumps(made_from, indent=1) + "\n")
    return folder / f"{name}.csv"


def save_figure(figure: Any, name: str, folder: Path, data: pd.DataFrame, records: Source) -> list[Path]:
    """A figure's files: `name.png`, `name.svg`, its data as `name.csv`, what it was made from as `name.json`."""
    return [*plotting.save_figure(figure, name, folder), save_table(data, name, folder, records)]


def of_benchmark(report: Mapping[str, Any], file: str, runs: str) -> dict[str, str]:
    """What was drawn from a file in `benchmarks/`: its name, which runs it holds, and where they were computed."""
    where = report["environment"]
    return {
        "records": f"benchmarks/{file}",
        "from": f"{runs}; computed on {where['processor']}, torch {where['torch']}, commit {where['commit']}",
    }


def provenance_line(records: Sequence[ScenarioRecord]) -> str:
    """Profile, seeds, hardware and commits behind a table or figure, in one line."""
    values = partial(different, records)
    return (
        f"{len(records)} records, profile {values('config', 'profile')}, seeds {values('config', 'seed')}; computed on "
        f"{values('provenance', 'processor')} ({values('provenance', 'device')}), torch {values('provenance', 'torch')}, "
        f"commit {values('provenance', 'commit')}"
    )


def different(records: Sequence[ScenarioRecord], *path: str) -> str:
    """The different values that stand at a place in the records, in order, separated by commas."""
    found: dict[str, None] = {}
    for record in records:
        value: Any = record
        for step in path:
            value = value[step]
        found[str(value)] = None
    return ", ".join(found)
