"""The HTML page of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unlearn_lib.command.report.measure import MEANING
from unlearn_lib.pages import subplots, svg, template

COLOURS = {"forget": "#d55e00", "retain": "#0072b2", "holdout": "#009e73"}  # Okabe and Ito, told apart by the colour-blind
STYLES = {"forget": "-", "retain": "--", "holdout": ":"}


def render(report: Mapping[str, Any], before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str:
    """The page of a `report.json` and the losses of every text before and after."""
    page: str = template("unlearn_lib.command.report", "report.html").render(
        report=report, meaning=MEANING, plot=_plot(before, after), sets=[name for name in COLOURS if name in before]
    )
    return page


def _plot(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Any:
    """The distribution functions of the losses."""
    figure, axes = subplots(8, 3.2, 2, sharex=True, sharey=True)
    for axis, title, losses in zip(axes, ("before", "after"), (before, after), strict=True):
        for name, values in losses.items():
            axis.ecdf(values.numpy(), label=f"{name} ({len(values)})", color=COLOURS[name], linestyle=STYLES[name], linewidth=2)
        axis.set(title=title, xlabel="loss of a text (nats per token)")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of texts below")
    axes[0].legend(loc="lower right")
    return svg(figure)
