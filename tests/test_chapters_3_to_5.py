"""Chapters 3 to 5: the running example, the exercises and the drawings, which a later edit could break."""

import inspect
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from unlearn_lib import unlearn
from unlearn_lib.methods import METHODS

ROOT = Path(__file__).parents[1]
CHAPTERS = ("ch03_forgotten", "ch04_first_order", "ch05_newton")
DRAWINGS = {"ch03_forgotten": "ch03-forgetting.svg", "ch05_newton": "ch05-ellipse.svg"}
SVG = "{http://www.w3.org/2000/svg}"


def cells(name: str) -> list[Any]:
    return list(nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells)


def tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def prose(name: str) -> str:
    return "\n".join(cell.source for cell in cells(name) if cell.cell_type == "markdown")


def code(name: str) -> str:
    return "\n".join(cell.source for cell in cells(name) if cell.cell_type == "code")


def printed(name: str) -> str:
    outputs = [output for cell in cells(name) if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_has_the_title_of_the_contents_with_its_number(name: str) -> None:
    toc = yaml.safe_load((ROOT / "book/_toc.yml").read_text(encoding="utf-8"))
    titles = {chapter["file"]: chapter.get("title") for part in toc["parts"] for chapter in part["chapters"]}
    first = cells(name)[0].source.splitlines()[0]
    assert first.replace('"', "") == f"# {titles[f'notebooks/{name}']}"


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_exercise_that_is_not_open_ended_has_a_solution_and_a_check(name: str) -> None:
    """The check follows the solution, and both say which exercise they belong to."""
    given = re.findall(r"\{admonition\} Exercise (\d+) \((.*)\)", prose(name))
    closed = [number for number, kind in given if kind != "open-ended"]
    assert len(closed) >= 3
    all_cells = cells(name)
    places = [place for place, cell in enumerate(all_cells) if "exercise" in tags(cell)]
    assert [re.search(r"exercise\(\s*(\d+)", all_cells[place].source)[1] for place in places] == closed  # type: ignore[index]
    for place, number in zip(places, closed, strict=True):
        check, solution = all_cells[place], all_cells[place - 1]
        assert {"solution", "hide-cell"} <= set(tags(solution))
        assert solution.metadata["mystnb"]["code_prompt_show"] == f"Show solution {number} in code"
        assert "hide-input" in tags(check)
        assert check.metadata["mystnb"]["code_prompt_show"] == f"Show the check of exercise {number}"
        assert "wrong=[" in check.source
        assert "hint=" in check.source
        assert f"exercise {number}: right\n" in check.outputs[0].text


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_statement_of_an_exercise_names_what_its_check_is_given(name: str) -> None:
    """A reader who has only the statement has to know what to call the answer."""
    statements = dict(re.findall(r"\{admonition\} Exercise (\d+) \([^)]*\)\n(.*?)\n:::", prose(name), re.DOTALL))
    for cell in cells(name):
        if "exercise" in tags(cell):
            found = re.search(r"exercise\(\s*(\d+),\s*(?:right|lambda[^,]*(?:\([^)]*\))?[^,]*),\s*(\w+),", cell.source)
            assert found is not None
            assert f"`{found[2]}" in statements[found[1]]


@pytest.mark.parametrize("name", CHAPTERS)
def test_nothing_after_a_solution_needs_what_it_defines_but_its_check(name: str) -> None:
    """A student's notebook has three dots in its place."""
    all_cells = cells(name)
    for place, cell in enumerate(all_cells):
        if "solution" not in tags(cell):
            continue
        defined = set(re.findall(r"^(?:def )?(\w+)(?: = |\()", cell.source, re.MULTILINE)) - {"print", "check"}
        assert defined
        for later in all_cells[place + 2 :]:
            if later.cell_type == "code":
                again = {name for name in defined if re.search(rf"^(?:def )?{name}(?: = |\()", later.source, re.MULTILINE)}
                used = {name for name in defined - again if re.search(rf"\b{name}\b", later.source)}
                shadowed = {name for name in used if re.search(rf"\b{name}\b(?:, \w+)* = |, {name}\b.* = ", later.source)}
                assert used <= shadowed | {"s", "H"}, (cell.id, later.id, used)


@pytest.mark.parametrize("name", CHAPTERS)
def test_folded_cells_say_what_they_hold_and_open_ones_are_short(name: str) -> None:
    for cell in cells(name):
        if cell.cell_type != "code":
            continue
        if {"hide-input", "hide-cell"} & set(tags(cell)):
            prompts = cell.metadata["mystnb"]
            assert prompts["code_prompt_show"].startswith("Show ")
            assert prompts["code_prompt_hide"] == prompts["code_prompt_show"].replace("Show ", "Hide ", 1)
        else:
            assert len(cell.source.splitlines()) <= 40, cell.id
            assert "plt.show()" not in cell.source, cell.id
            assert not re.search(r"^check\(", cell.source, re.MULTILINE), cell.id


@pytest.mark.parametrize("name", CHAPTERS)
def test_no_table_has_a_bare_number_for_every_row(name: str) -> None:
    for cell in cells(name):
        for output in cell.get("outputs", []):
            html = output.get("data", {}).get("text/html", "")
            assert "<th></th>\n    </tr>\n  </thead>\n  <tbody>\n    <tr>\n      <th>0</th>" not in html, cell.id
            assert "<th>0</th>\n" not in html, cell.id


@pytest.mark.parametrize(("name", "drawing"), DRAWINGS.items())
def test_a_drawing_is_there_and_is_described(name: str, drawing: str) -> None:
    found = re.search(
        rf"```\{{figure\}} \.\./book/_static/drawings/{drawing}\n:name: (\S+)\n:alt: (.+)\n\n(.+)\n```", prose(name)
    )
    assert found is not None
    label, alt, caption = found.groups()
    assert f"{{numref}}`{label}`" in prose(name)
    assert len(alt) > 200
    assert caption.endswith(".")
    root = ET.parse(ROOT / "book/_static/drawings" / drawing).getroot()
    assert root.get("width") == "640"
    rectangle = root.find(f"{SVG}rect")
    assert rectangle is not None
    assert (rectangle.get("fill"), rectangle.get("width")) == ("white", "640")  # so that it can be read on a dark page
    sizes = [float(one.get("font-size", "14")) for one in root.iter() if one.tag in (f"{SVG}text", f"{SVG}svg")]
    assert min(sizes) >= 13


def test_the_ellipse_is_drawn_as_its_caption_says() -> None:
    """Equal gain, and a second-order term 2.8 times as large: (x^2 + 9 y^2) / 2 at both ends, with the gradient along (1, 1)."""
    root = ET.parse(ROOT / "book/_static/drawings" / DRAWINGS["ch05_newton"]).getroot()
    ends = {}
    for name in ("gradient-step", "newton-step"):
        (line,) = (one for one in root.iter(f"{SVG}line") if one.get("id") == name)
        x1, y1, x2, y2 = (float(line.get(side, "nan")) for side in ("x1", "y1", "x2", "y2"))
        ends[name] = (x2 - x1, y1 - y2)
    (a, b), (c, d) = ends["gradient-step"], ends["newton-step"]
    assert a == b
    assert c / d == pytest.approx(9, rel=0.05)
    assert a + b == pytest.approx(c + d)
    assert 2.6 < (a**2 + 9 * b**2) / (c**2 + 9 * d**2) < 3
    assert "nine times as large across the valley as along it" in prose("ch05_newton")
    assert "almost three times as large for the gradient step" in prose("ch05_newton")


def example(name: str) -> list[str]:
    """What decides which model and which texts a chapter has."""
    found = re.search(r"load_task\((.*?)\n\)", code(name), re.DOTALL)
    assert found is not None
    return found[1].split()


def test_chapters_3_to_5_have_the_same_running_example() -> None:
    assert example("ch03_forgotten") == example("ch04_first_order") == example("ch05_newton")
    assert '"holdout": 96' in " ".join(example("ch03_forgotten"))
    for name in CHAPTERS:
        assert 'load_model("nano/opt-s"' in code(name)
        assert "task.train.select(range(16))" in code(name)
        assert "task.train.select(range(16, 64))" in code(name)
        assert "2e-3" in code(name)
    words = (
        "`nano/opt-s` fine-tuned on 64 questions of the generated ARC task, of which 16 are to be forgotten, with 96 held-out"
    )
    assert words in prose("ch03_forgotten")
    assert words in prose("ch04_first_order")
    assert "The example is that of {doc}`ch03_forgotten`" in prose("ch04_first_order")
    assert "the running example of {doc}`ch03_forgotten` and {doc}`ch04_first_order`" in prose("ch05_newton")


def means(name: str, row: str) -> list[str]:
    found = re.search(rf"^{row} +(.*)$", printed(name), re.MULTILINE)
    assert found is not None
    return found[1].split()


def test_chapters_3_and_4_show_the_same_retrained_model() -> None:
    """Chapter 3 prints the losses of the original and of the first retrained model; chapter 4 prints the rises of both losses."""
    before, after = (list(map(float, means("ch03_forgotten", row)[:2])) for row in ("original", "retrained 1"))
    rises = list(map(float, means("ch04_first_order", "retrained")[:2]))
    assert [b - a for a, b in zip(before, after, strict=True)] == pytest.approx(rises, abs=0.011)


def test_chapter_3_says_where_the_default_method_stops() -> None:
    text = " ".join(prose("ch03_forgotten").split())
    assert "is the forget loss at which this library's default method stops" in text
    default: Any = inspect.signature(unlearn).parameters["method"].default
    chosen: Any = METHODS[default].from_options({})
    assert chosen.calibrates
    assert chosen.target_loss is None


def test_chapter_4_ends_with_curvature_beside_the_first_order_methods() -> None:
    text = prose("ch04_first_order")
    assert text.index("## What is missing") < text.index("## The same step with curvature") < text.index("## Exercises")
    assert "{numref}`ch04-curvature`" in text
    assert 'method="kfac-newton", steps=1' in code("ch04_first_order")
    assert 'method="constrained-newton"' in code("ch04_first_order")


def test_chapter_5_has_one_sign_for_the_trained_and_one_for_the_retrained_model() -> None:
    text = prose("ch05_newton")
    assert r"\theta^*" not in text
    assert r"\theta^+" not in text
    assert r"\theta_D" in text
    assert r"\theta^\star" in text


def test_intervals_are_introduced_in_chapter_3_and_used_in_4_and_5() -> None:
    assert "## Intervals: what a number of texts allows to say" in prose("ch03_forgotten")
    for name in ("ch04_first_order", "ch05_newton"):
        assert "{doc}`ch03_forgotten`" in prose(name)
        assert "paired" in printed(name)
