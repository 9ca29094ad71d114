"""What the HTML pages of reports share: one file each, no network, plots inline, light and dark; every text of the user's escaped."""

from __future__ import annotations

from typing import Any


def template(package: str, name: str) -> Any:
    """A template of a package, with the filter `number`; a name that is not given to it is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["number"] = number
    return environment.get_template(name)


def number(value: Any) -> str:
    """A number for a table: with thousands separated, or with four digits; anything else as it is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def subplots(width: float, height: float, columns: int = 1, **options: Any) -> tuple[Any, Any]:
    """A figure and its axes, beside pyplot, so that nothing of the caller's plots is touched."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots(1, columns, **options)


def svg(figure: Any) -> Any:
    """The figure as SVG without a fixed size, for a template."""
    import io

    from markupsafe import Markup

    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    drawn = text.getvalue()
    return Markup(drawn[drawn.index("<svg") :])
