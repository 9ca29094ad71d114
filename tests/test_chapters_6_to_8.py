"""Chapters 6 to 8: words that must agree with what the cells do, drawings, and exercises whose checks can fail."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
import yaml

from unlearn_lib.checks import DoesNotHoldError, NotRightYetError, exercise

ROOT = Path(__file__).parents[1]
CHAPTERS = {"ch06_curvature": 6, "ch07_inverting": 7, "ch08_damping": 8}
DRAWINGS = {"ch06-four-matrices": "ch06_curvature", "ch07-kfac-two-sides": "ch07_inverting", "ch08-null-space": "ch08_damping"}
PROMPTS = {"solution": "solution {} in code", "exercise": "the check of exercise {}"}


def cells(name: str) -> list[Any]:
    return list(nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells)


def code(name: str) -> list[Any]:
    return [cell for cell in cells(name) if cell.cell_type == "code"]


def prose(name: str) -> str:
    """The text of a notebook, with single spaces."""
    return " ".join(" ".join(cell.source for cell in cells(name) if cell.cell_type == "markdown").split())


def printed(name: str) -> str:
    return "\n".join(output.get("text", "") for cell in code(name) for output in cell.outputs)


def tags(cell: Any) -> list[str]:
    return list(cell.metadata.get("tags", []))


def functions(name: str, identifier: str) -> dict[str, Any]:
    """What a cell defines, without the calls that stand below its functions."""
    (cell,) = (cell for cell in cells(name) if cell.id == identifier)
    namespace: dict[str, Any] = {"torch": torch}
    exec(cell.source.split("\n\n\nexercise(")[0], namespace)
    return namespace


@pytest.mark.parametrize(("name", "number"), CHAPTERS.items())
def test_the_title_has_the_number_of_the_chapter(name: str, number: int) -> None:
    assert cells(name)[0].source.startswith(f"# {number} · ")


@pytest.mark.parametrize("name", CHAPTERS)
def test_cells_are_short_and_those_that_are_folded_say_what_they_hold(name: str) -> None:
    for cell in code(name):
        assert len(cell.source.splitlines()) <= 40, cell.id
        if {"hide-input", "hide-cell"} & set(tags(cell)):
            assert cell.metadata.mystnb.code_prompt_show.startswith("Show "), cell.id
            assert cell.metadata.mystnb.code_prompt_hide == cell.metadata.mystnb.code_prompt_show.replace("Show", "Hide"), (
                cell.id
            )


@pytest.mark.parametrize("name", CHAPTERS)
def test_every_exercise_is_judged_or_open_ended(name: str) -> None:
    text = prose(name)
    numbers = [int(number) for number in re.findall(r"\{admonition\} Exercise (\d)", text)]
    assert numbers == [1, 2, 3, 4]
    for tag, prompt in PROMPTS.items():
        shown = [cell.metadata.mystnb.code_prompt_show for cell in code(name) if tag in tags(cell)]
        assert shown == [f"Show {prompt.format(number)}" for number in (1, 2, 3)]
    assert "(open-ended)" in text.split("{admonition} Exercise 4")[1].split(":::")[0]
    assert [f"exercise {number}: right" in printed(name) for number in (1, 2, 3)] == [True] * 3


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_solution_defines_nothing_that_later_cells_need(name: str) -> None:
    """Where a student's notebook has a stub, everything but the exercise itself must still run."""
    listed = code(name)
    for index, cell in enumerate(listed):
        if "solution" not in tags(cell):
            continue
        names = re.findall(r"^(?:def )?(\w+)(?:\(.*\):| =)", cell.source, re.MULTILINE)
        assert names, cell.id
        later = "\n".join(one.source for one in listed[index + 2 :])
        assert "exercise" in tags(listed[index + 1])
        for one in names:
            assert not re.search(rf"\b{one}\b", later) or re.search(rf"^(def )?{one}\b", later, re.MULTILINE), (cell.id, one)


@pytest.mark.parametrize(("drawing", "name"), DRAWINGS.items())
def test_a_drawing_is_on_its_page_described_and_legible(drawing: str, name: str) -> None:
    path = ROOT / "book" / "_static" / "drawings" / f"{drawing}.svg"
    root = ET.fromstring(path.read_text(encoding="utf-8"))
    background = root.find("{http://www.w3.org/2000/svg}rect")
    assert background is not None
    assert background.get("fill") == "#ffffff", "a drawing needs a light ground on dark pages"
    assert root.get("viewBox", "").split()[2] == "640"
    assert all(float(part.get("font-size", "14")) >= 13 for part in root.iter())
    text = "\n".join(cell.source for cell in cells(name) if cell.cell_type == "markdown")
    block = text.split(f"```{{figure}} ../book/_static/drawings/{drawing}.svg\n")[1].split("```")[0]
    label = re.search(r":name: (\S+)", block)
    alt = re.search(r":alt: (.+)", block)
    assert label is not None
    assert alt is not None
    assert len(alt[1]) > 200
    assert f"{{numref}}`{label[1]}`" in text


def test_chapter_6_counts_positions_in_one_way() -> None:
    text, source = prose("ch06_curvature"), "\n".join(cell.source for cell in code("ch06_curvature"))
    assert "$T_i = 6$, one less than its length, and the code calls it `T`" in text
    assert "T = LENGTH - 1" in source
    assert "(T - 1)" not in source
    assert "T = 7" not in text + source
    assert re.search(r"The trace of F_token is [\d.]+ times that of F, within a third of T_i = 6\.", printed("ch06_curvature"))
    assert "divided by $T_i = 6$" in text


def test_chapter_6_shows_each_matrix_before_the_next() -> None:
    """Every section that defines a matrix ends with that matrix on the toy."""
    headings = ["## The Hessian", "## The Gauss-Newton matrix", "## The Fisher", "## The empirical Fisher, one term a token"]
    headings.append("## The empirical Fisher, one term a sequence")
    kinds = [(cell.cell_type, cell.source) for cell in cells("ch06_curvature")]
    starts = [next(i for i, (kind, source) in enumerate(kinds) if heading in source.splitlines()) for heading in headings]
    assert starts == sorted(starts)
    for start in starts:
        following = next(source for kind, source in kinds[start:] if kind == "code")
        assert "trace" in following


def test_chapter_7_counts_its_ways_once() -> None:
    text = prose("ch07_inverting")
    counts = re.findall(r"\b(\w+) ways\b", text)
    assert {count for count in counts if count in {"four", "five", "six", "seven"}} == {"five"}
    assert "The table has 7 rows for 5 ways." in printed("ch07_inverting")
    assert "the table has seven rows for the five ways" in text.lower()
    for way in ("conjugate gradients", "Woodbury's identity", "the recursion", "diagonal blocks", "K-FAC"):
        assert way in text.split("## What to take along")[1].split("*")[1], way


def test_kfac_may_be_skipped() -> None:
    (cell,) = (cell for cell in cells("ch07_inverting") if "## K-FAC (optional)" in cell.source)
    after = cell.source.split("## K-FAC (optional)")[1].strip()
    assert after.startswith(":::{admonition} You may skip this section on a first reading")
    assert "black box" in after.split(":::")[1] + after.split(":::")[2]


def test_chapter_8_names_the_solver_that_it_calls() -> None:
    (cell,) = (cell for cell in cells("ch08_damping") if cell.id == "ch08-damping-19")
    (checks,) = (cell for cell in cells("ch08_damping") if cell.id == "ch08-damping-20")
    assert "Woodbury(damping)" in cell.source
    assert "ConjugateGradients" not in cell.source
    assert "conjugate gradients" not in checks.source.lower()
    assert checks.source.count("Woodbury's identity") == 3


def test_the_drawing_comes_before_the_measurement_of_the_null_space() -> None:
    order = [cell.id for cell in cells("ch08_damping")]
    (drawn,) = (cell.id for cell in cells("ch08_damping") if "drawings/ch08-null-space.svg" in cell.source)
    assert order.index(drawn) < order.index("ch08-damping-07a")
    assert "knob that decides" not in prose("ch08_damping")


def test_every_curve_of_the_sliders_is_named_and_the_axes_have_numbers() -> None:
    (cell,) = (cell for cell in code("ch08_damping") if cell.id == "ch08-damping-14")
    (shown,) = (output.data["text/html"] for output in cell.outputs if "data" in output)
    assert 'add("names", "text"' in shown
    assert 'add("ticks", "text"' in shown
    assert "FALLBACK" not in shown
    assert "SCRIPT" not in shown
    assert shown.count("<script>") == 1


def test_the_checks_of_the_exercises_refuse_and_accept() -> None:
    """Three that need nothing of their notebooks; the others are held by the notebooks' own runs."""
    ratio = functions("ch06_curvature", "ch06-curvature-22a")["right_ratio"]
    assert ratio(lambda p: (1 - p) / p)
    assert not ratio(lambda p: p * (1 - p))
    times = functions("ch08_damping", "ch08-damping-21b")["right_times"]
    assert times(lambda a, b: a / b)
    assert not times(lambda a, b: (a / b) ** 0.5)
    namespace = functions("ch07_inverting", "ch07-inverting-22b")
    namespace["eye"] = lambda size: torch.eye(size, dtype=torch.float64)
    limit = namespace["right_limit"]
    assert limit(lambda length: 1 / length)
    assert not limit(lambda length: 2 / length)
    with pytest.raises(NotRightYetError):
        exercise(1, limit, ..., wrong=[lambda length: length])
    with pytest.raises(DoesNotHoldError):
        exercise(1, limit, lambda length: 1 / length, wrong=[lambda length: 1 / length])


@pytest.mark.parametrize("name", CHAPTERS)
def test_no_conclusion_before_its_evidence_and_no_unnamed_method(name: str) -> None:
    text = prose(name)
    assert "What comes out" not in text
    assert not re.search(r"\b[Oo]urs\b", text)


@pytest.mark.parametrize("name", CHAPTERS)
def test_tables_have_no_bare_index(name: str) -> None:
    for cell in code(name):
        for output in cell.outputs:
            shown = output.get("data", {}).get("text/html", "")
            if 'class="dataframe"' in shown and "<noscript>" not in shown:
                assert "<th>0</th>" not in shown, cell.id


def test_the_table_of_contents_lists_the_chapters() -> None:
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert [files.index(f"notebooks/{name}") for name in CHAPTERS] == sorted(
        files.index(f"notebooks/{name}") for name in CHAPTERS
    )
