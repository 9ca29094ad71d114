"""How every table, figure and chapter was made: a page for each, generated when the book is built."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from unlearn_lib.errors import InputError
from unlearn_lib.reproduction import runs
from unlearn_lib.reproduction.grids import grid
from unlearn_lib.reproduction.inventory import ITEMS, Item
from unlearn_lib.reproduction.store import Record, RunStore

FOLDER = "book/made"
INDEX = """# How every figure was made

A page for each notebook of this book: its parameters, the runs behind it, their seeds and hardware, what it takes to compute them
anew, and the numbers and checks to expect. Continuous integration executes all notebooks and compares these.

| page | runs | minutes of computing |
|---|---|---|
"""
NOT_COMPARED = "nbval-ignore-output"


def pages(root: Path) -> dict[str, str]:
    """Path without suffix, relative to the checkout, and MyST text of every page; the first is the index.

    Raises:
        InputError: A record is missing.
    """
    found = {}
    index = INDEX
    for identifier, item in ITEMS.items():
        records = runs.load(grid(identifier), RunStore(root / "results" / "nano"))
        found[f"{FOLDER}/{identifier}"] = page(identifier, item, records, root)
        minutes = f"{computing(records) / 60:.0f}" if records else ""
        index += f"| {{doc}}`{item.title} <made/{identifier}>` | {len(records) or ''} | {minutes} |\n"
    return {FOLDER: index, **found}


def page(identifier: str, item: Item, records: list[Record], root: Path) -> str:
    """The page of one notebook."""
    import nbformat

    name = item.notebook.removesuffix(".ipynb")
    node = nbformat.read(root / "notebooks" / item.notebook, as_version=4)
    parts = [
        f"# How it was made: {item.title}",
        f"Notebook: {{doc}}`notebooks/{item.notebook} <../../notebooks/{name}>`. Again: `unlearn reproduce {identifier}`"
        + (f"; with all runs anew: `unlearn reproduce {identifier} -p recompute=true`." if _recomputes(node) else "."),
        "## Parameters",
        "| parameter | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(_parameters(node)),
        "## Runs",
        _runs(records),
        "## What to expect",
    ]
    expected = list(_expected(node))
    if not expected:
        raise InputError(f"notebooks/{item.notebook} prints nothing that is compared; let a cell print what must hold")
    parts.append(
        "Printed by the cells whose output continuous integration compares, character by character:\n\n```text\n"
        + "\n".join(expected)
        + "\n```"
    )
    return "\n\n".join(parts) + "\n"


def computing(records: Iterable[Record]) -> float:
    """Seconds of the runs' timed parts: training, retraining and unlearning, on one thread."""
    return float(sum(sum(value for name, value in record["timing"].items() if name.endswith("seconds")) for record in records))


def _runs(records: list[Record]) -> str:
    if not records:
        return "None: everything is computed while the notebook runs, on the machine that built the book."
    rows = {
        "records": f"{len(records)} in `results/nano/`",
        "seeds": _values(records, "config", "seed"),
        "processor": _values(records, "provenance", "processor"),
        "device, threads": f"{_values(records, 'provenance', 'device')}, {_values(records, 'provenance', 'threads')}",
        "versions": f"Python {_values(records, 'provenance', 'python')}, torch {_values(records, 'provenance', 'torch')}, "
        f"transformers {_values(records, 'provenance', 'transformers')}",
        "commits": _values(records, "provenance", "commit"),
        "computed": " to ".join(sorted({min(_dates(records)), max(_dates(records))})),
        "methods' own time": f"{computing(records) / 60:.0f} minutes in all, median "
        f"{statistics.median(computing([record]) for record in records):.1f} seconds a record",
    }
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _dates(records: list[Record]) -> list[str]:
    return [record["provenance"]["created"][:10] for record in records]


def _values(records: list[Record], *path: str) -> str:
    found: dict[str, None] = {}
    for record in records:
        value: Any = record
        for step in path:
            value = value[step]
        found[str(value)] = None
    return ", ".join(found)


def _parameters(node: Any) -> Iterable[str]:
    cell = next(cell for cell in node.cells if "parameters" in cell.metadata.get("tags", []))
    for line in cell.source.splitlines():
        if ":" in line and not line.startswith("#"):
            declared, _, meaning = line.partition("  # ")
            name, _, rest = declared.partition(": ")
            kind, _, default = rest.partition(" = ")
            yield f"| `{name}` | {kind} | `{default}` | {meaning} |"


def _recomputes(node: Any) -> bool:
    return any(cell.source.startswith("profile: str") and "recompute" in cell.source for cell in node.cells)


def _expected(node: Any) -> Iterable[str]:
    for cell in node.cells:
        if cell.cell_type == "code" and NOT_COMPARED not in cell.metadata.get("tags", []):
            for output in cell.outputs:
                if output.output_type == "stream":
                    yield output.text.rstrip()
                elif "text/plain" in output.get("data", {}) and "image/png" not in output.data:
                    yield output.data["text/plain"].rstrip()
