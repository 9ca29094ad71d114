"""How every table, figure and chapter was made: a page for each, generated when the book is built."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from unlearn_lib.errors import InputError
from unlearn_lib.reproduction.exhibits.saving import different
from unlearn_lib.reproduction.inventory import ITEMS, Item
from unlearn_lib.reproduction.markdown import rendered
from unlearn_lib.reproduction.runs import finished
from unlearn_lib.reproduction.runs.grids import grid
from unlearn_lib.reproduction.runs.record import ScenarioRecord
from unlearn_lib.reproduction.runs.store import RunStore

FOLDER = "book/made"
NOT_COMPARED = "nbval-ignore-output"


def pages(root: Path) -> dict[str, str]:
    """Path without suffix, relative to the checkout, and MyST text of every page; the first is the index.

    Raises:
        InputError: A record is missing.
    """
    store = RunStore(root / "results" / "nano")
    rows = [(identifier, item, finished.load(grid(identifier), store)) for identifier, item in ITEMS.items()]
    index = rendered(__package__, "made.md", rows=rows, computing=computing)
    return {FOLDER: index} | {f"{FOLDER}/{row[0]}": page(*row, root) for row in rows}


def page(identifier: str, item: Item, records: Sequence[ScenarioRecord], root: Path) -> str:
    """The page of one notebook.

    Raises:
        InputError: Nothing that the notebook prints is compared.
    """
    import nbformat
    from papermill import inspect_notebook

    path = root / "notebooks" / item.notebook
    expected = list(_expected(nbformat.read(path, as_version=4)))
    if not expected:
        raise InputError(f"notebooks/{item.notebook} prints nothing that is compared; let a cell print what must hold")
    return rendered(
        __package__,
        "made_page.md",
        identifier=identifier,
        item=item,
        name=path.stem,
        parameters=inspect_notebook(str(path)),
        runs=_runs(records) if records else {},
        expected=expected,
    )


def computing(records: Iterable[ScenarioRecord]) -> float:
    """Seconds of the runs' timed parts: training, retraining and unlearning, on one thread."""
    return float(sum(sum(value for name, value in record["timing"].items() if name.endswith("seconds")) for record in records))


def _runs(records: Sequence[ScenarioRecord]) -> dict[str, str]:
    return {
        "records": f"{len(records)} in `results/nano/`",
        "seeds": different(records, "config", "seed"),
        "processor": different(records, "provenance", "processor"),
        "device, threads": f"{different(records, 'provenance', 'device')}, {different(records, 'provenance', 'threads')}",
        "versions": f"Python {different(records, 'provenance', 'python')}, torch {different(records, 'provenance', 'torch')}, "
        f"transformers {different(records, 'provenance', 'transformers')}",
        "commits": different(records, "provenance", "commit"),
        "computed": " to ".join(sorted({min(_dates(records)), max(_dates(records))})),
        "methods' own time": f"{computing(records) / 60:.0f} minutes in all, median "
        f"{statistics.median(computing([record]) for record in records):.1f} seconds a record",
    }


def _dates(records: Sequence[ScenarioRecord]) -> list[str]:
    return [record["provenance"]["created"][:10] for record in records]


def _expected(node: Any) -> Iterable[str]:
    for cell in node.cells:
        if cell.cell_type == "code" and NOT_COMPARED not in cell.metadata.get("tags", []):
            for output in cell.outputs:
                if output.output_type == "stream":
                    yield output.text.rstrip()
                elif "text/plain" in output.get("data", {}) and "image/png" not in output.data:
                    yield output.data["text/plain"].rstrip()
