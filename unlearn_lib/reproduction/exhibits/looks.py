"""How a method looks in every figure: colour, marker, name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unlearn_lib.plotting import COLOURS, MARKERS
from unlearn_lib.reproduction import paper


def style(method: str, names: Mapping[str, str] = paper.METHODS) -> dict[str, Any]:
    """Colour, marker and label of a method; `names` are those of the labels."""
    return {"color": COLOURS[method], "marker": MARKERS[method], "label": names[method]}


def short_label(method: str) -> str:
    """A method's name in two lines at most, for a narrow panel."""
    return paper.METHODS[method].replace(", ", ",\n", 1).replace(" (", "\n(")


def legend_below(figure: Any, axis: Any) -> None:
    """One legend below all panels of a figure, with the entries of one of them."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
