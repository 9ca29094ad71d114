"""Figure 1: the service loop, drawn."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
from matplotlib.patches import FancyBboxPatch

STATIONS = (
    (0.0, 1.0, "users ask for\nremoval"),
    (1.0, 1.0, "removal cache\n(up to $n$ texts)"),
    (2.0, 1.0, "cache full:\nunlearn them all"),
    (2.0, 0.0, "new model,\n$D^+$ without them"),
    (1.0, 0.0, "cache emptied"),
)
ARROWS = ((0, 1), (1, 2), (2, 3), (3, 4), (4, 1))


def service_loop() -> Any:
    """Requests collect in a removal cache; a full cache triggers unlearning, and is emptied."""
    figure, axis = plt.subplots(figsize=(6, 2.6), layout="constrained")
    for x, y, text in STATIONS:
        axis.add_patch(
            FancyBboxPatch((x - 0.36, y - 0.2), 0.72, 0.4, boxstyle="round,pad=0.02", facecolor="#E8F1FA", edgecolor="#0072B2")
        )
        axis.text(x, y, text, ha="center", va="center", fontsize=9)
    for a, b in ARROWS:
        (x0, y0, _), (x1, y1, _) = STATIONS[a], STATIONS[b]
        dx, dy = (x1 > x0) - (x1 < x0), (y1 > y0) - (y1 < y0)
        axis.annotate(
            "",
            (x1 - 0.38 * dx, y1 - 0.22 * dy),
            (x0 + 0.38 * dx, y0 + 0.22 * dy),
            arrowprops={"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0},
        )
    axis.set(xlim=(-0.45, 2.45), ylim=(-0.3, 1.3), aspect="equal")
    axis.axis("off")
    return figure
