"""Pages of the book in Markdown, from templates."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def rendered(package: str, template: str, **values: Any) -> str:
    """The text of a template in the folder `templates` of a package; a value that it names and is not given is an error."""
    # Markdown, so nothing is escaped; a tag on a line of its own leaves no line behind
    environment = Environment(
        loader=PackageLoader(package),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(values)
