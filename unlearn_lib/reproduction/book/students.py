"""The chapters as a class gets them: notebooks for students, without solutions, and notebooks with solutions, both without outputs.

A chapter is its own master. In it, the code cell of a solution is tagged `solution` (or is hidden as a whole, which in this book only
solutions are), and the next code cell, tagged `exercise`, judges the answer. The student's notebook has a stub in place of the solution:
it sets the names that the check uses to `...`, so that the notebook stops at its first exercise and says which answer is missing.
"""

from __future__ import annotations

import copy
import re
import symtable
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from unlearn_lib.errors import InputError
from unlearn_lib.files import write_text

SOLUTION, EXERCISE = frozenset({"solution", "hide-cell"}), "exercise"
FENCE = re.compile(r"^\s*(?P<fence>:{3,}|`{3,})\{(?:admonition|dropdown)\}\s*Solutions?\b")
OWN_WORK = "# Your own work on this exercise goes here; no check follows."


def defined(source: str) -> set[str]:
    """The names that a cell sets at its top level: assigned, imported, or the names of functions and classes.

    Raises:
        SyntaxError: The cell is not Python.
    """
    top = symtable.symtable(source, "cell", "exec")
    return {symbol.get_name() for symbol in top.get_symbols() if symbol.is_assigned() or symbol.is_imported()}


def used(source: str) -> set[str]:
    """The names that a cell takes from the cells before it: read at its top level or inside of its functions, and not set by itself.

    Raises:
        SyntaxError: The cell is not Python.
    """
    top = symtable.symtable(source, "cell", "exec")
    read = {symbol.get_name() for symbol in top.get_symbols() if symbol.is_referenced()}
    for scope in _scopes(top):
        read |= {symbol.get_name() for symbol in scope.get_symbols() if symbol.is_global() and symbol.is_referenced()}
    return read - defined(source)


def _scopes(table: symtable.SymbolTable) -> Iterator[symtable.SymbolTable]:
    for child in table.get_children():
        yield child
        yield from _scopes(child)


def stub(solution: str, check: str | None) -> str:
    """The cell that stands in for a solution: a line `name = ...` for every name that the solution sets and its check uses, in the order
    in which the solution sets them.

    Args:
        solution: The source of the solution's cell.
        check: The source of the cell that judges the answer; None where the exercise has none.

    Raises:
        InputError: The check uses nothing that the solution sets, so it cannot judge an answer.
    """
    if check is None:
        return OWN_WORK
    names = defined(solution) & used(check)
    if not names:
        raise InputError(
            "the check of an exercise uses no name that the solution before it sets, so it cannot judge an answer; name the answer in the "
            f"exercise and use this name in the check, which begins with: {check.splitlines()[0]}"
        )
    in_order = sorted(names, key=lambda name: next(re.finditer(rf"\b{name}\b", solution)).start())
    return "# Replace the dots by your answer. The next cell checks it.\n" + "\n".join(f"{name} = ..." for name in in_order)


def without_solutions(markdown: str) -> str:
    """A text without the admonitions and dropdowns whose title begins with "Solution"."""
    kept, closing = [], None
    for line in markdown.splitlines():
        if closing is None and (found := FENCE.match(line)):
            closing = found["fence"]
        elif closing is None:
            kept.append(line)
        elif line.strip() == closing:
            closing = None
    if closing is not None:
        raise InputError(
            f"the fence of a solution is not closed by a line {closing!r}; the text begins with: {markdown[:60]!r}"
        )
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def student(master: Any) -> Any:
    """A chapter's notebook as students get it: stubs in place of solutions, no text of a solution, no outputs.

    Args:
        master: The chapter, as `nbformat` reads it; it stays as it is.

    Raises:
        InputError: A check uses nothing that its solution sets, or a solution's text has no end.
    """
    node = solved(master)
    cells: list[Any] = []
    for number, cell in enumerate(node.cells):
        if cell.cell_type == "markdown":
            cell.source = without_solutions(cell.source)
        elif cell.cell_type == "code" and _is_solution(cell):
            cell.source = stub(cell.source, _check_after(node.cells[number + 1 :]))
            cell.metadata.tags = [tag for tag in cell.metadata.tags if tag not in SOLUTION and not tag.startswith("nbval")]
            cell.metadata.pop("mystnb", None)
        if cell.source:
            cells.append(cell)
    node.cells = cells
    return node


def solved(master: Any) -> Any:
    """A chapter's notebook with its solutions and without outputs; the master stays as it is."""
    import nbformat

    node = nbformat.from_dict(copy.deepcopy(master))
    for cell in node.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return node


def texts(masters: Sequence[Path], part: str) -> dict[str, str]:
    """The names and contents of the notebooks of one part, of those in `PARTS`.

    Raises:
        InputError: As `student`; the message names the notebook.
    """
    import nbformat

    made = {}
    for path in masters:
        node = nbformat.read(path, as_version=4)
        try:
            made[path.name] = nbformat.writes(PARTS[part](node)) + "\n"
        except InputError as error:
            raise InputError(f"{path.name}: {error}") from error
    return made


def write(masters: Sequence[Path], target: Path) -> list[Path]:
    """Write `target/student/*.ipynb` and `target/solutions/*.ipynb`; returns the paths written.

    Raises:
        InputError: As `student`; nothing is written then, and the message names the notebook.
    """
    made = {target / part / name: text for part in PARTS for name, text in texts(masters, part).items()}
    for path, text in made.items():
        write_text(path, text)
    return list(made)


def _is_solution(cell: Any) -> bool:
    return bool(SOLUTION & set(cell.metadata.get("tags", [])))


def _check_after(cells: Sequence[Any]) -> str | None:
    """The source of the exercise cell that belongs to a solution: the next code cell, if it is one."""
    following = next((cell for cell in cells if cell.cell_type == "code"), None)
    return following.source if following is not None and EXERCISE in following.metadata.get("tags", []) else None


PARTS: dict[str, Callable[[Any], Any]] = {"student": student, "solutions": solved}
