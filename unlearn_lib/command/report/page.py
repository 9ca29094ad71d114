"""The HTML page of a report: one file, no network, plots inline, light and dark; every text of the user's escaped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from torch import Tensor

from unlearn_lib.command.report.measure import MEANING

COLOURS = {"forget": "#d55e00", "retain": "#0072b2", "holdout": "#009e73"}  # Okabe and Ito, told apart by the colour-blind
STYLES = {"forget": "-", "retain": "--", "holdout": ":"}


def render(report: Mapping[str, Any], before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str:
    """The page of a `report.json` and the losses of every text before and after."""
    environment = Environment(
        loader=PackageLoader("unlearn_lib.command.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    page: str = environment.get_template("report.html").render(
        report=report, meaning=MEANING, plot=Markup(_plot(before, after)), sets=[name for name in COLOURS if name in before]
    )
    return page


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _plot(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str:
    """The distribution functions of the losses, as SVG without a fixed size."""
    import io

    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for axis, title, losses in zip(axes, ("before", "after"), (before, after), strict=True):
        for name, values in losses.items():
            axis.ecdf(values.numpy(), label=f"{name} ({len(values)})", color=COLOURS[name], linestyle=STYLES[name], linewidth=2)
        axis.set(title=title, xlabel="loss of a text (nats per token)")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("share of texts below")
    axes[0].legend(loc="lower right")
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
