"""The sections of a notebook, by their headings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any


def sections(node: Any) -> Iterator[tuple[str, list[Any]]]:
    """(heading, cells) for every heading of the first and second level, in order.

    A cell of text that holds several headings is divided; what stands before the first heading of a notebook is left out.
    """
    import nbformat

    heading, cells = "", list[Any]()
    for cell in node.cells:
        if cell.cell_type != "markdown":
            cells.append(cell)
            continue
        for part in re.split(r"^(?=##? )", cell.source, flags=re.MULTILINE):
            if found := re.match(r"##? (.*)\n*", part):
                if heading:
                    yield heading, cells
                heading, cells, part = found[1], [], part[found.end() :]
            if part.strip():
                cells.append(nbformat.v4.new_markdown_cell(part))
    if heading:
        yield heading, cells
