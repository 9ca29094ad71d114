"""How a method looks in every figure: colour, marker, name."""

from __future__ import annotations

from typing import Any

from unlearn_lib.plotting import COLOURS, MARKERS
from unlearn_lib.reproduction import paper


def style(method: str) -> dict[str, Any]:
    """Colour, marker and label of a method."""
    return {"color": COLOURS[method], "marker": MARKERS[method], "label": paper.METHODS[method]}


def short_label(method: str) -> str:
    """A method's name in two lines at most, for a narrow panel."""
    return paper.METHODS[method].replace(" (ours)", "").replace(", ", ",\n").replace(" (", "\n(")


def legend_below(figure: Any, axis: Any) -> None:
    """One legend below all panels of a figure, with the entries of one of them."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
