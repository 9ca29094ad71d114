"""What can be reproduced: every id with its notebook and what it shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unlearn_lib.errors import InputError, unknown


@dataclass(frozen=True)
class Item:
    """One notebook of the book; `minutes` is the time of computing all its runs anew on two cores (0: it has none)."""

    notebook: str
    title: str
    minutes: int


ITEMS: dict[str, Item] = {
    "five_minutes": Item("five_minutes.ipynb", "Five minutes to the first unlearning", 0),
    "table01": Item("table01_notation.ipynb", "Table 1: notation", 0),
    "table02": Item("table02_comparison.ipynb", "Table 2: approaches side by side", 0),
    "fig01": Item("fig01_service.ipynb", "Figure 1: the service loop, drawn and running", 0),
    "table03": Item("table03_arc.ipynb", "Table 3: change of accuracy and exposure on ARC-Easy", 12),
    "table04": Item("table04_piqa.ipynb", "Table 4: change of accuracy and exposure on PIQA", 8),
    "table09": Item("table09_lambada.ipynb", "Table 9: change of accuracy and exposure on LAMBADA", 8),
    "table07": Item("table07_ranks.ipynb", "Table 7: the methods' ranks", 24),
    "table06": Item("table06_complexity.ipynb", "Table 6: what the cost grows with", 0),
    "fig02": Item("fig02_runtime.ipynb", "Figure 2: running time", 12),
    "fig04": Item("fig04_weights.ipynb", "Figure 4: histograms of the last layer's weights", 4),
    "fig05": Item("fig05_cycles.ipynb", "Figure 5: utility over consecutive unlearning cycles", 14),
    "fig06": Item("fig06_onion.ipynb", "Figure 6: the onion effect", 2),
    "fig07": Item("fig07_exposure.ipynb", "Figure 7: histograms of exposure", 4),
}


def find(identifier: str) -> Item:
    """The item of an id such as `table03`."""
    if identifier not in ITEMS:
        raise unknown("table or figure", identifier, ITEMS)
    return ITEMS[identifier]


def project_root(start: str | Path | None = None) -> Path:
    """The checkout that holds `notebooks/` and `results/`: found from `start` (default: the working directory) upwards, then from
    the package's own place, so that notebooks run from any folder.

    Raises:
        InputError: There is none; the library was installed without the project around it.
    """
    first = Path(start or Path.cwd()).resolve()
    for folder in (first, *first.parents, *Path(__file__).resolve().parents):
        if (folder / "notebooks").is_dir() and (folder / "_config.yml").is_file():
            return folder
    raise InputError(
        "no checkout of this project was found around the working directory; clone the repository and run inside it"
    )
