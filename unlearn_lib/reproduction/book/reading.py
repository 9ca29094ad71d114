"""How long a chapter takes to read: what there is to read is counted, and a rule turns the counts into minutes.

    minutes to read = words / 150 + (90 displayed formulas + 5 inline formulas + 5 lines of visible code + 45 figures) / 60
    minutes with exercises = minutes to read + 20 exercises + 40 open-ended exercises

The numbers of the rule are assumptions, and nobody was observed for them: see `Rule`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn_lib.errors import InputError
from unlearn_lib.reproduction.book.sections import sections
from unlearn_lib.reproduction.book.students import without_solutions

FENCE = re.compile(r"^\s*(?P<fence>`{3,}|~{3,}|:{3,})(?:\{(?P<directive>[\w-]+)\}\s*(?P<title>.*))?")
DOLLARS = re.compile(r"\$\$.*?\$\$", re.DOTALL)
INLINE = re.compile(r"(?<![\\$])\$(?!\s)[^$\n]+?\$(?!\d)")
OPTION = re.compile(r"^:[a-z-]+:.*$", re.MULTILINE)
ROLE = re.compile(r"\{[a-z:]+\}`([^`<]*)(?:<[^`]*>)?`")
TARGET = re.compile(r"\]\([^)]*\)")
WORD = re.compile(r"[^\W_][\w'’.,-]*")
EXERCISE = re.compile(r"^Exercise \d+\b.*$", re.MULTILINE)
LISTED = re.compile(r"^\d+\. ", re.MULTILINE)


@dataclass(frozen=True)
class Counts:
    """What a notebook gives a reader: words outside of formulas, code and solutions, and so on. `lines` are the lines of code that are
    not folded; `exercises` are those without the open-ended ones."""

    words: int
    displayed: int
    inline: int
    lines: int
    figures: int
    exercises: int
    open_ended: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(mine + its for mine, its in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class Rule:
    """Assumptions about a reader who knows linear algebra and PyTorch: words a minute, seconds for a formula, a line of code and a
    figure, minutes for an exercise."""

    words_a_minute: int = 150
    displayed_seconds: int = 90
    inline_seconds: int = 5
    line_seconds: int = 5
    figure_seconds: int = 45
    exercise_minutes: int = 20
    open_ended_minutes: int = 40

    def reading(self, counts: Counts) -> float:
        """Minutes to read everything once, without the exercises."""
        seconds = (
            self.displayed_seconds * counts.displayed
            + self.inline_seconds * counts.inline
            + self.line_seconds * counts.lines
            + self.figure_seconds * counts.figures
        )
        return counts.words / self.words_a_minute + seconds / 60

    def studying(self, counts: Counts) -> float:
        """Minutes to read everything and to do the exercises."""
        return self.reading(counts) + self.exercise_minutes * counts.exercises + self.open_ended_minutes * counts.open_ended


NOTHING = Counts(0, 0, 0, 0, 0, 0, 0)
RULE = Rule()


def counts(node: Any) -> Counts:
    """Count what a notebook gives to read, as `nbformat` reads it; a text's solutions are part of an exercise's minutes."""
    texts = [without_solutions(cell.source) for cell in node.cells if cell.cell_type == "markdown"]
    return sum((_of_text(text) for text in texts), NOTHING) + sum((_of_code(cell) for cell in _code(node)), NOTHING)


def last_section(node: Any) -> tuple[str, Counts]:
    """The heading of a chapter's last section before its exercises, and what there is to read in it.

    Raises:
        InputError: The notebook has no exercises, or nothing before them.
    """
    import nbformat

    found = list(sections(node))
    at = [number for number, (heading, _) in enumerate(found) if heading == "Exercises"]
    if not at or not at[0]:
        raise InputError("a chapter needs a section named Exercises with another one before it")
    heading, cells = found[at[0] - 1]
    return heading, counts(nbformat.v4.new_notebook(cells=cells))


def read(path: Path) -> Counts:
    """The counts of a file."""
    import nbformat

    return counts(nbformat.read(path, as_version=4))


def _of_text(text: str) -> Counts:
    prose, directives = _without_fences(text)
    displayed, prose = directives.count("math") + len(DOLLARS.findall(prose)), DOLLARS.sub(" ", prose)
    inline, prose = len(INLINE.findall(prose)), INLINE.sub(" ", prose)
    titles = EXERCISE.findall(prose)
    listed = prose.partition("## Exercises")[2] if not titles else ""
    exercises = [*titles, *LISTED.findall(listed)]
    open_ended = sum("open-ended" in title for title in titles)
    words = len(WORD.findall(TARGET.sub("]", ROLE.sub(r"\1", OPTION.sub(" ", prose)))))
    return Counts(words, displayed, inline, 0, directives.count("figure"), len(exercises) - open_ended, open_ended)


def _without_fences(text: str) -> tuple[str, list[str]]:
    """The prose, with the titles and contents of directives and without code and displayed formulas; and the names of the directives."""
    lines: list[str] = []
    directives: list[str] = []
    open_fences: list[str] = []  # of directives whose contents are read
    skipped_to = ""
    for line in text.splitlines():
        found = FENCE.match(line)
        if skipped_to:
            skipped_to = "" if line.strip() == skipped_to else skipped_to
        elif found is None:
            lines.append(line)
        elif found["directive"] is not None:
            directives.append(found["directive"])
            lines.append("" if found["directive"] == "figure" else found["title"])
            if found["directive"] == "math":
                skipped_to = found["fence"]
            else:
                open_fences.append(found["fence"])
        elif open_fences and line.strip() == open_fences[-1]:
            open_fences.pop()
        else:
            skipped_to = found["fence"]  # code, with a language or without
    return "\n".join(lines), directives


def _code(node: Any) -> Iterator[Any]:
    return (cell for cell in node.cells if cell.cell_type == "code")


def _of_code(cell: Any) -> Counts:
    tags = cell.metadata.get("tags", [])
    if any(tag in ("hide-cell", "remove-cell", "solution") for tag in tags):
        return NOTHING
    folded = any(tag in ("hide-input", "remove-input", "parameters", "exercise") for tag in tags)
    lines = 0 if folded else sum(bool(line.strip()) for line in cell.source.splitlines())
    figures = sum("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
    return Counts(0, 0, 0, lines, figures, 0, 0)
