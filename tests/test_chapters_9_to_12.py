"""Chapters 9 to 12: their form, the algorithms written out in chapter 9, their intervals, and sentences that were wrong once."""

import ast
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nbformat
import pandas as pd
import pytest
import yaml

from unlearn_lib.reproduction.exhibits.intervals import interval

ROOT = Path(__file__).parents[1]
CHAPTERS = {9: "ch09_second_order", 10: "ch10_dp", 11: "ch11_measuring", 12: "ch12_paper"}
EVERY = pytest.mark.parametrize("number", CHAPTERS)
FOLDED = {"hide-input", "hide-cell"}


def cells(number: int) -> list[Any]:
    return list(nbformat.read(ROOT / "notebooks" / f"{CHAPTERS[number]}.ipynb", as_version=4).cells)


def code(number: int) -> list[Any]:
    return [cell for cell in cells(number) if cell.cell_type == "code"]


def tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", []))


def prose(number: int) -> str:
    return " ".join(" ".join(cell.source for cell in cells(number) if cell.cell_type == "markdown").split())


def printed(number: int) -> str:
    outputs = [output for cell in code(number) for output in cell.outputs]
    return "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


@EVERY
def test_the_title_is_that_of_the_table_of_contents(number: int) -> None:
    toc = yaml.safe_load((ROOT / "book/_toc.yml").read_text(encoding="utf-8"))
    titles = {page["file"]: page.get("title") for part in toc["parts"] for page in part["chapters"]}
    assert cells(number)[0].source.splitlines()[0] == f"# {titles[f'notebooks/{CHAPTERS[number]}']}"


@EVERY
def test_long_cells_and_checks_are_folded_under_a_label(number: int) -> None:
    for cell in code(number):
        folded = tags(cell) & FOLDED
        assert folded or len(cell.source.splitlines()) <= 40, cell.id
        prompts = {key: cell.metadata.get("mystnb", {}).get(f"code_prompt_{key}") for key in ("show", "hide")}
        assert not folded or all(prompts.values()), cell.id
        if re.search(r"^ *(check|exercise)\(", cell.source, re.MULTILINE):
            assert folded, cell.id


@EVERY
def test_every_exercise_is_judged_or_open_ended(number: int) -> None:
    told = re.findall(
        r":::\{admonition\} Exercise (\d) \(.*?\)\n(.*?)\n:::", "\n".join(c.source for c in cells(number)), re.DOTALL
    )
    judged = {}
    after_code = code(number)
    for place, cell in enumerate(after_code):
        if "exercise" in tags(cell):
            found = re.search(r"^exercise\(\s*(\d),\s*\w+,\s*(\w+),", cell.source, re.MULTILINE)
            assert found is not None, cell.id
            judged[found[1]] = found[2]
            solution = after_code[place - 1]
            assert "solution" in tags(solution), cell.id
            assert re.search(rf"\b{found[2]}\b", solution.source), cell.id
            assert f"exercise {found[1]}: right" in "".join(output.get("text", "") for output in cell.outputs)
    assert [exercise for exercise, _ in told] == ["1", "2", "3", "4"]
    for exercise, words in told:
        assert (exercise in judged) != words.endswith("(open-ended)"), exercise
        if exercise in judged:
            assert f"`{judged[exercise]}`" in words, "the exercise names the variable that holds the answer"


@EVERY
def test_no_later_cell_needs_what_a_solution_defines(number: int) -> None:
    """In the students' notebook the solutions are gone, and everything else still has to run."""
    defined: set[str] = set(dir(__builtins__))
    missing: set[str] = set()
    for cell in code(number):
        names = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name)]
        stored = {node.id for node in names if isinstance(node.ctx, ast.Store)}
        if "solution" in tags(cell):
            missing |= stored - defined
        elif "exercise" not in tags(cell):
            loaded = {node.id for node in names if isinstance(node.ctx, ast.Load)}
            assert not loaded & missing - stored, cell.id
            defined |= stored
            missing -= stored


@EVERY
def test_no_table_has_a_bare_index_of_numbers(number: int) -> None:
    for cell in code(number):
        for output in cell.outputs:
            table = output.get("data", {}).get("text/html", "")
            rows = re.findall(r"<tr>\s*<th>(\d+)</th>", table)
            assert rows != [str(i) for i in range(len(rows))] or not rows, cell.id


@EVERY
def test_ours_is_no_name_of_a_method(number: int) -> None:
    assert "(ours)" not in printed(number)
    assert '"Ours"' not in prose(number)
    assert not re.search(r"\bours\b", prose(number).lower())


@EVERY
def test_the_prose_has_no_head_of_conclusions_and_no_aphorism(number: int) -> None:
    text = prose(number)
    for words in (
        "What comes out",
        "a length is not a dose",
        "with a bill",
        "is no result",
        "Of accuracy",
        "Do these first",
        "Who wins",
    ):
        assert words not in text


def test_algorithms_are_written_out_before_the_library_is_called() -> None:
    before: list[str] = []
    for cell in code(9):
        if re.search(r"(?<!def )\bunlearn\(", cell.source):
            break
        before.append(cell.source)
    assert "def inverse_fisher" in "\n".join(before)
    written = "\n".join(cell.source for cell in code(9))
    lengths = {
        node.name: (node.end_lineno or 0) - node.lineno + 1
        for node in ast.walk(ast.parse(written))
        if isinstance(node, ast.FunctionDef)
    }
    assert lengths["inverse_fisher"] + lengths["fisher_removal"] + lengths["times"] <= 20
    assert lengths["fisher_forgetting"] <= 20
    assert lengths["gauss_newton"] <= 20
    assert lengths["hessian_free"] <= 20
    for name in ("The step of our Algorithm 2", "The noise of our Algorithm 3", "Our Hessian-free step"):
        assert re.search(rf"holds: {name} and the library's differ by less than 1e-\d of their length", printed(9)), name


def test_a_recursion_of_outer_products_is_the_inverse_of_the_damped_mean() -> None:
    """The functions of the chapter, taken from its cells, beside a dense inverse and a dense fourth root."""
    import torch

    sources = [cell.source for cell in code(9)]
    names: dict[str, Any] = {"torch": torch}
    for function in ("inverse_fisher", "times", "fisher_forgetting"):
        (found,) = (
            node
            for source in sources
            for node in ast.parse(source).body
            if isinstance(node, ast.FunctionDef) and node.name == function
        )
        exec(compile(ast.Module([found], []), function, "exec"), names)
    generator = torch.Generator().manual_seed(0)
    G = torch.randn(7, 3, 5, generator=generator, dtype=torch.float64)
    inverse = names["inverse_fisher"](G, 0.3)
    noise = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    names["G"] = G
    drawn = names["fisher_forgetting"](0.2, 0.4, 0.3, noise)
    for k in range(3):
        F = 0.3 * torch.eye(5, dtype=torch.float64) + G[:, k].T @ G[:, k] / 7
        torch.testing.assert_close(inverse[k], torch.linalg.inv(F), rtol=1e-6, atol=1e-6)
        values, vectors = torch.linalg.eigh(F)
        root = vectors @ torch.diag(values**-0.25) @ vectors.T
        torch.testing.assert_close(drawn[k], (0.2 * 0.4**2) ** 0.25 * root @ noise[k], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("one", "other", "decided"),
    [
        ("fisher-removal, blocks of 48, one step", "gradient, one step", True),
        ("fisher-removal, blocks of 48, 4 steps", "fisher-removal, blocks of 48, one step", True),
        ("gradient, 4 steps", "gradient, one step", True),
        ("fisher-removal, blocks of 48, one step", "newton (CG on Gauss-Newton, 32 texts), one step", False),
        ("fisher-removal, default (K-FAC, 4 steps)", "gradient-difference, KL, 25 %", False),
        ("constrained-newton, default", "gradient-difference, KL, 25 %", True),
        ("constrained-newton, default", "retraining", True),
    ],
)
def test_chapter_9_has_the_paired_intervals_of_the_records(one: str, other: str, decided: bool) -> None:
    rows = json.loads((ROOT / "benchmarks/methods.json").read_text(encoding="utf-8"))["rows"]
    a, b = (pd.Series([seed["damage_ratio"] for seed in rows[name]["opt"]["seeds"]]) for name in (one, other))
    found = interval(a - b)
    assert found.text(3) in printed(9)
    assert found.beyond() == decided


def test_chapter_9_tells_the_costs_of_its_table() -> None:
    rows = json.loads((ROOT / "benchmarks/methods.json").read_text(encoding="utf-8"))["rows"]

    def cost(name: str) -> int:
        seeds = rows[name]["opt"]["seeds"]
        return round(sum(seed["cost"] for seed in seeds) / len(seeds))

    text = prose(9)
    assert "retraining costs about as many gradients" not in text
    assert abs(cost("fisher-removal, default (K-FAC, 4 steps)") - 3210) <= 1
    assert abs(cost("fisher-removal, blocks of 48, one step") - 470) <= 1
    assert "Four steps with K-FAC cost 3210, a sixth less, and one step with blocks costs 470" in text
    assert "Retraining costs 3840 gradients here" in text


def test_the_default_method_is_named_as_it_is() -> None:
    from unlearn_lib.unlearning.request import Request

    assert Request().method == "constrained-newton"
    assert "The library's default, `step=" not in prose(9)
    assert "Constrained Newton, the method that `unlearn` takes if none is named, has no single length" in prose(9)


def test_chapter_11_says_which_errors_are_unpaired_and_who_introduced_intervals() -> None:
    text = prose(11)
    assert "That error is *unpaired*" in text
    assert "The end of {doc}`ch03_forgotten` also introduced intervals" in text


def test_chapter_12_counts_its_findings_once() -> None:
    text = prose(12)
    assert "One printed claim and one printed number can be judged without training anything" in text
    assert "The first shows that a printed number cannot be, the second decides a printed claim" in text
    assert "three of the printed claims" not in text.lower()
    assert "Differences below their error" not in text


def test_the_figure_of_chapter_12_has_the_paired_interval_of_the_verdicts() -> None:
    found = re.search(r"less that of retraining is ([+-]\S+ \[\S+ \S+\]) nats", printed(12))
    theirs = re.search(r"below that of retraining, by (-\S+ \[\S+ \S+\]) nats", printed(12))
    assert found is not None
    assert theirs is not None
    page = (ROOT / "book" / "verdicts.md").read_text(encoding="utf-8")
    assert found[1] in page
    assert theirs[1] in page


def test_chapter_12_has_both_readings_of_the_fisher_methods_cost() -> None:
    growth = re.search(r"In batches of four they grow to ([\d.]+) and ([\d.]+) times", printed(12))
    assert growth is not None
    table = nbformat.read(ROOT / "notebooks/table06_complexity.ipynb", as_version=4)
    shown = "\n".join(
        output.get("data", {}).get("text/html", "")
        for cell in table.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    for number in growth.groups():
        assert f"<td>{number}</td>" in shown
        assert 3 <= float(number) <= 5


def test_chapter_12_leads_to_every_examination_and_shows_whole_claims() -> None:
    text = prose(12)
    for page in ("exam_erasure", "exam_intervals", "exam_units", "exam_frontier", "exam_damping", "exam_blocks"):
        assert f"{{doc}}`{page}`" in text
    assert "{doc}`../book/verdicts` |" in text
    (table,) = (cell for cell in code(12) if cell.id == "ch12-paper-04")
    shown = "".join(output.get("data", {}).get("text/html", "") for output in table.outputs)
    assert "than the gradient" in shown
    assert "..." not in shown


@pytest.mark.parametrize("path", sorted((ROOT / "book/_static/drawings").glob("ch09-*.svg")), ids=lambda path: path.stem)
def test_a_drawing_is_readable_and_described(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    name = "{http://www.w3.org/2000/svg}"
    assert root.find(f"{name}title") is not None
    background = root.find(f"{name}rect")
    assert background is not None
    assert background.get("fill") == "#ffffff"
    sizes = [float(element.get("font-size", "13")) for element in root.iter() if element.get("font-size")]
    assert sizes
    assert min(sizes) >= 13
    assert float(root.get("width", "0")) == 640
    text = "\n".join(cell.source for cell in cells(9))
    block = re.search(rf"```\{{figure\}} \.\./book/_static/drawings/{path.name}\n(.*?)```", text, re.DOTALL)
    assert block is not None
    assert len(block[1].split(":alt:")[1].splitlines()[0]) > 200
