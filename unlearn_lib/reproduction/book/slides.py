"""Slides of a week, made of what its chapters hold already: their headings, displayed formulas, figures and last words.

A week is one HTML file with its figures in it. It is read by scrolling, or with the arrow keys, and printed one slide on a page.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn_lib.reproduction.book import mathjax, weeks
from unlearn_lib.reproduction.book.sections import sections
from unlearn_lib.reproduction.book.students import without_solutions

MATH = re.compile(r"^```\{math\}\n(?P<content>.*?)^```", re.DOTALL | re.MULTILINE)
DRAWING = re.compile(r"^```\{figure\} *(?P<file>\S+)\n(?P<content>.*?)^```", re.DOTALL | re.MULTILINE)
OPTION = re.compile(r"^:(?P<name>[\w-]+):[ ]*(?P<value>.*)$", re.MULTILINE)
DOCUMENT = re.compile(r"\{(?:doc|ref|term|eq)\}`([^`<]*?)\s*(?:<[^`]*>)?`")
CITATION = re.compile(r"\s*\{cite[:\w]*\}`[^`]*`|\s*\(?\{numref\}`[^`]*`\)?")
NOT_SHOWN = ("Exercises",)


@dataclass(frozen=True)
class Slide:
    """A heading, and HTML below it."""

    heading: str
    body: str


def week(root: Path, number: int, mathjax_folder: str = "mathjax") -> str:
    """The HTML of the slides of a week.

    Args:
        root: The checkout.
        number: Of the week, from 1.
        mathjax_folder: Where MathJax's files are, seen from the file.
    """
    import nbformat
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    plan = weeks.WEEKS[number - 1]
    text = _renderer()
    goals = "After this week you can\n\n" + "".join(f"* {goal};\n" for goal in plan.goals[:-1]) + f"* {plan.goals[-1]}."
    slides = [Slide(f"Week {number}: {plan.title}", text(goals))]
    for chapter in plan.chapters:
        path = weeks.chapter(root, chapter)
        slides += _of_chapter(nbformat.read(path, as_version=4), path.parent, text)
    for part in plan.sections:
        slides += _of_chapter(weeks.section(root, part), root / "notebooks", text)
    environment = Environment(loader=PackageLoader(__package__), undefined=StrictUndefined, autoescape=select_autoescape())
    script = f"{mathjax_folder}/{mathjax.SCRIPT}"
    return environment.get_template("slides.html").render(number=number, title=plan.title, slides=slides, script=script)


def _renderer() -> Callable[[str], str]:
    """Markdown to HTML, with formulas between the marks that MathJax looks for; HTML in the text is shown as it is written."""
    from markdown_it import MarkdownIt
    from mdit_py_plugins.dollarmath import dollarmath_plugin

    def formula(content: str, options: dict[str, Any]) -> str:
        start, end = (r"\[", r"\]") if options["display_mode"] else (r"\(", r"\)")
        return start + html.escape(content) + end

    parser = MarkdownIt("commonmark", {"html": False}).use(dollarmath_plugin, renderer=formula)
    return lambda text: str(parser.render(plain(text)))


def plain(text: str) -> str:
    """A text without the roles of MyST, which mean nothing outside of the book: links are their words, and citations are left out."""
    return CITATION.sub("", DOCUMENT.sub(r"\1", text))


def _of_chapter(node: Any, folder: Path, text: Callable[[str], str]) -> Iterator[Slide]:
    for heading, cells in sections(node):
        if heading in NOT_SHOWN:
            continue
        prose = "\n\n".join(without_solutions(cell.source) for cell in cells if cell.cell_type == "markdown")
        bullets = "\n".join(re.findall(r"^\* .*$", prose, re.MULTILINE)) if heading.startswith("What to take along") else ""
        formulas = [_formula(found["content"]) for found in MATH.finditer(prose)]
        pictures = [_drawing(found["file"], found["content"], folder, text) for found in DRAWING.finditer(prose)]
        pictures += [picture for cell in cells if cell.cell_type == "code" for picture in _pictures(cell, text)]
        if bullets:
            yield Slide(heading, text(bullets))
        elif formulas or not pictures:
            yield Slide(heading, text(_first_paragraph(prose)) + "".join(formulas[:3]))
        for picture in pictures:
            yield Slide(heading, picture)


def _first_paragraph(prose: str) -> str:
    """The first paragraph that is neither a list, a table nor a directive."""
    paragraphs = [paragraph.strip() for paragraph in re.split(r"\n\s*\n", DRAWING.sub("", MATH.sub("", prose)))]
    return next((paragraph for paragraph in paragraphs if paragraph and paragraph[0] not in "*|`:-#<"), "")


def _formula(content: str) -> str:
    formula = OPTION.sub("", content).strip()
    if r"\\" in formula and r"\begin" not in formula:
        formula = rf"\begin{{aligned}}{formula}\end{{aligned}}"
    return rf"<div>\[{html.escape(formula)}\]</div>"


def _pictures(cell: Any, text: Callable[[str], str]) -> Iterator[str]:
    shown = cell.metadata.get("mystnb", {})
    caption, alt = shown.get("figure", {}).get("caption", ""), shown.get("image", {}).get("alt", "")
    for output in cell.outputs:
        if "image/png" in output.get("data", {}):
            yield _picture(f"data:image/png;base64,{output.data['image/png'].strip()}", alt or caption, text(caption))


def _drawing(file: str, content: str, folder: Path, text: Callable[[str], str]) -> str:
    options = {found["name"]: found["value"] for found in OPTION.finditer(content)}
    path = folder / file
    kind = {"svg": "svg+xml"}.get(path.suffix[1:], path.suffix[1:])
    address = f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return _picture(address, options.get("alt", ""), text(OPTION.sub("", content).strip()))


def _picture(address: str, alt: str, caption: str) -> str:
    return f'<figure><img src="{address}" alt="{html.escape(alt)}"><figcaption>{caption}</figcaption></figure>'
