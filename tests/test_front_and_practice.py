"""The front pages, the first two chapters and the practical ones: their form, and sentences beside the records that they are about."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
import yaml

from unlearn_lib.reproduction.exhibits import ch14_real

ROOT = Path(__file__).parents[1]
CHAPTERS = ("ch01_why", "ch02_memorisation", "ch13_your_model", "ch14_real", "ch15_audit")
NOTEBOOKS = (*CHAPTERS, "five_minutes", "other_roads", "exam_frontier")
WITH_EXERCISES = {"ch01_why": 2, "ch02_memorisation": 3, "ch13_your_model": 2, "ch14_real": 2, "ch15_audit": 4}
FOLDED = {"hide-input", "hide-cell", "remove-cell"}
NUMBERED = re.compile(r"(Show|Hide) (solution \d+ in code|the check of exercise \d+)")
NAMED = {
    f"{what} {rest}" for what in ("Show", "Hide") for rest in ("the setup", "the code of the figure", "the code of the checks")
}
PROSE = 5
"""Words that a sentence on a measurement has at least: a subject, a verb and what is compared."""


def cells(name: str) -> list[Any]:
    return list(nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells)


def code(name: str) -> list[Any]:
    return [cell for cell in cells(name) if cell.cell_type == "code"]


def tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", []))


def prose(name: str) -> str:
    return " ".join(" ".join(cell.source for cell in cells(name) if cell.cell_type == "markdown").split())


def page(path: str) -> str:
    return " ".join((ROOT / path).read_text(encoding="utf-8").split())


def printed(cell: Any) -> str:
    """What a cell printed, which a busy kernel may send in pieces."""
    return "".join(output.get("text", "") for output in cell.outputs)


def held(name: str) -> Iterator[str]:
    """The sentences that a notebook's checks printed."""
    for cell in code(name):
        yield from re.findall(r"^holds: (.*)$", printed(cell), flags=re.MULTILINE)


def records(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_has_its_title_with_the_number(name: str) -> None:
    toc = yaml.safe_load((ROOT / "book/_toc.yml").read_text(encoding="utf-8"))
    titles = {chapter["file"]: chapter.get("title") for part in toc["parts"] for chapter in part["chapters"]}
    first = next(cell for cell in cells(name) if cell.cell_type == "markdown")
    assert first.source.splitlines()[0] == f"# {titles[f'notebooks/{name}']}"
    assert "After this chapter you can" in first.source


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_is_folded_says_what_it_is_and_what_is_open_is_short(name: str) -> None:
    for cell in code(name):
        if tags(cell) & {"hide-input", "hide-cell"}:
            shown = cell.metadata.mystnb["code_prompt_show"], cell.metadata.mystnb["code_prompt_hide"]
            assert all(label in NAMED or NUMBERED.fullmatch(label) for label in shown), (cell.id, shown)
        assert tags(cell) & FOLDED or cell.source.count("\n") < 40, cell.id


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_checks_print_whole_sentences(name: str) -> None:
    sentences = list(held(name))
    assert sentences
    for sentence in sentences:
        assert len(sentence.split()) >= PROSE, sentence
        assert sentence[0].isupper() or sentence[0].isdigit() or sentence.startswith("constrained Newton"), sentence
        assert sentence.endswith((".", "?")), sentence


@pytest.mark.parametrize("name", ["ch14_real", "ch15_audit", "other_roads", "exam_frontier"])
def test_most_sentences_on_records_show_the_value(name: str) -> None:
    sentences = list(held(name))
    assert sum(bool(re.search(r"\d", sentence)) for sentence in sentences) > 0.85 * len(sentences)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_method_is_named_and_not_called_ours(name: str) -> None:
    for cell in cells(name):
        assert not re.search(r"\bours\b", cell.source, flags=re.IGNORECASE), cell.id
    assert "What comes out" not in prose(name)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_no_table_counts_its_rows(name: str) -> None:
    for cell in code(name):
        for output in cell.outputs:
            rows = re.findall(r"<tr>\s*<th>([^<]*)</th>", output.get("data", {}).get("text/html", ""))
            assert rows[:2] != ["0", "1"], cell.id


@pytest.mark.parametrize("name", WITH_EXERCISES)
def test_every_exercise_with_an_answer_has_a_solution_and_a_check(name: str) -> None:
    text = "\n".join(cell.source for cell in cells(name) if cell.cell_type == "markdown")
    asked = re.findall(r":::\{admonition\} Exercise (\d+) \((.*)\)", text)
    closed = [int(number) for number, kind in asked if kind != "open-ended"]
    assert closed == list(range(1, WITH_EXERCISES[name] + 1))
    ran = code(name)
    checks = [place for place, cell in enumerate(ran) if "exercise" in tags(cell)]
    assert len(checks) == len(closed)
    for number, place in zip(closed, checks, strict=True):
        assert "solution" in tags(ran[place - 1])
        assert printed(ran[place]) == f"exercise {number}: right\n"
        (call,) = (node for node in ast.walk(ast.parse(ran[place].source)) if _calls(node, "exercise"))
        assert isinstance(call.args[0], ast.Constant)
        assert call.args[0].value == number
        assert isinstance(call.args[2], ast.Name)
        assert f"`{call.args[2].id}`" in text  # the exercise says how the answer is called
        assert call.args[2].id in assigned(ran[place - 1])


def _calls(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def assigned(cell: Any) -> set[str]:
    """Names that a cell sets or defines outside functions."""
    found: set[str] = set()
    for statement in ast.parse(cell.source).body:
        if isinstance(statement, ast.FunctionDef):
            found.add(statement.name)
        else:
            found |= {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return found


@pytest.mark.parametrize("name", WITH_EXERCISES)
def test_nothing_but_its_check_needs_a_solution(name: str) -> None:
    """A reader who has not solved an exercise can run the rest of the page."""
    ran = code(name)
    for place, cell in enumerate(ran):
        if "solution" in tags(cell):
            names = assigned(cell)
            for later in ran[place + 2 :]:
                if not tags(later) & {"solution", "exercise"}:
                    loaded = {node.id for node in ast.walk(ast.parse(later.source)) if isinstance(node, ast.Name)}
                    assert not names & loaded, (cell.id, later.id, names & loaded)


def test_drawings_are_there_and_described() -> None:
    for name in NOTEBOOKS:
        for cell in cells(name):
            for target, body in re.findall(r"```\{figure\} (\S+)\n(.*?)```", cell.source, flags=re.DOTALL):
                drawing = (ROOT / "notebooks" / target).resolve()
                assert drawing.is_file(), target
                assert ":name:" in body
                assert len(re.findall(r":alt: (.+)", body)[0].split()) > 20
                svg = drawing.read_text(encoding="utf-8")
                assert 'viewBox="0 0 640' in svg
                sizes = [float(size) for size in re.findall(r'font-size="([\d.]+)"', svg)]
                assert min(sizes) >= 13
    assert "ch13-removal-cache.svg" in prose("ch13_your_model")


def test_the_map_of_the_field_leads_to_the_pages_that_treat_it() -> None:
    text = prose("ch01_why")
    for family in (
        "RMU",
        "task vectors",
        "SISA",
        "KL term",
        "certified removal",
        "TOFU",
        "MUSE",
        "WMDP",
        "audit",
        "relearning",
    ):
        assert family in text, family
    for name in ("ch01_why", "ch02_memorisation", "ch13_your_model"):
        linked = prose(name)
        assert "ch14_real" in linked, name
        assert "ch15_audit" in linked, name
    assert "{doc}`other_roads`" in text


def test_sisa_alone_is_much_nearer_to_retraining_on_the_forgotten_texts() -> None:
    kl = {
        label: sum(run["forget_kl"] for entry in families.values() for run in entry["seeds"])
        / sum(len(entry["seeds"]) for entry in families.values())
        for label, families in records("methods.json")["rows"].items()
    }
    sisa, original = kl["sisa, 4 shards of 3 slices"], kl["original"]
    assert f"with {sisa:.2f} nats where the original has {original:.2f}" in prose("exam_frontier")
    others = {label: value for label, value in kl.items() if not label.startswith(("sisa", "retraining", "original"))}
    assert min(others.values()) > 2 / 3 * original
    assert "nothing that was tried is much nearer" not in prose("exam_frontier")
    assert "No road does as little damage" not in prose("other_roads")


def test_chapter_14_compares_at_costs_that_are_told() -> None:
    rows = records("real.json")["rows"]
    assert "by a factor of four and more |" not in prose("ch14_real")
    first = {
        label: entry["seeds"]
        for label, entry in rows.items()
        if label.startswith(("gradient-difference", "npo", "simnpo", "gradient-ascent"))
    }
    newton = {run["seed"]: run for run in rows["constrained-newton, 20 %"]["seeds"]}
    mean = sum(run["damage_ratio"] for run in newton.values()) / len(newton)
    assert min(sum(run["damage_ratio"] for run in runs) / len(runs) for runs in first.values()) > 4 * mean
    for runs in first.values():
        for run in runs:
            assert run["damage_ratio"] > 3 * newton[run["seed"]]["damage_ratio"]
            assert run["cost"] > newton[run["seed"]]["cost"]


def test_chapter_14_tells_the_seconds_beside_the_counts() -> None:
    """Constrained Newton counts fewer gradients than the first-order methods and takes longer; its page says both."""
    rows = records("real.json")["rows"]

    def mean(label: str, name: str) -> float:
        runs = rows[label]["seeds"]
        assert not any("machine" in run for run in runs)
        return float(sum(run[name] for run in runs) / len(runs))

    newton = [mean(f"constrained-newton, {budget}", "seconds") for budget in ("20 %", "30 %", "50 %", "default")]
    tuned = ("gradient-difference, KL", "gradient-difference, NLL", "npo, with KL term", "simnpo, with KL term")
    first = [mean(label, "seconds") for label in (*tuned, "gradient-ascent, Adam")]
    assert min(newton) > 2 * max(first)
    text = prose("ch14_real")
    assert f"Constrained Newton takes {min(newton):.0f} to {max(newton):.0f} s" in text
    assert f"on the whole model take {min(first):.0f} to {max(first):.0f} s" in text
    pace = [mean(label, "seconds") / mean(label, "cost") for label in tuned]
    assert 900 * max(pace) < 10
    assert "at a lower cost." not in text


def test_levels_of_draws_are_compared_with_the_original_of_the_same_draw() -> None:
    lines = pd.DataFrame(
        [
            {"row": row, "seed": seed, "damage_ratio": 0.5} | dict.fromkeys(ch14_real.LEVELS, base + more)
            for row, more in (("original", 0.0), ("a method", 0.25))
            for seed, base in ((0, 1.0), (2, 4.0))
            if (row, seed) != ("a method", 0)
        ]
    )
    beside = ch14_real.means(ch14_real.beside_the_original(lines))
    for name in ch14_real.LEVELS:
        assert ch14_real.means(lines)[name].tolist() == [2.5, 4.25]
        assert beside[name].tolist() == [0.0, 0.25]
    assert beside.damage_ratio.tolist() == [0.5, 0.5]


def test_chapter_14_counts_the_rows_that_are_further_from_retraining() -> None:
    rows = records("real.json")["rows"]
    original = {run["seed"]: run["forget_kl"] for run in rows["original"]["seeds"]}
    ratio = {
        label: sum(run["forget_kl"] for run in entry["seeds"]) / sum(original[run["seed"]] for run in entry["seeds"])
        for label, entry in rows.items()
        if label not in ("original", "retraining")
    }
    further = sum(value > 1 for value in ratio.values())
    assert f"holds for {further} of {len(ratio)} rows" in prose("ch14_real")
    for value in ratio.values():
        assert value > 1 or f"({value:.2f}" in prose("ch14_real")


def test_what_comes_back_is_said_to_go_further_and_not_to_be_faster() -> None:
    rows = records("attacked.json")["rows"]
    runs = [run for label, entry in rows.items() if label not in ("original", "twin") for run in entry["runs"]]
    gaps = [run["numbers"]["relearned_control"] - run["numbers"]["relearned"] for run in runs]
    assert len(gaps) == 48
    assert round(min(gaps), 2) == 0.05
    text = prose("ch15_audit")
    assert "On each of the 48 models that a method made" in text
    assert "back faster" not in text
    slow = [label for label, entry in rows.items() if min(run["numbers"]["steps_to_half"] for run in entry["runs"]) == 21]
    assert "twin" in slow
    assert len(slow) == 5
    passed = [run for run in runs if run["outcome"] == "like retraining"]
    small = sorted(round(run["numbers"]["relearned_control"] - run["numbers"]["relearned"], 2) for run in passed)
    assert f"their gaps of {small[0]:.2f} and {small[1]:.2f} nats" in text


def test_chapter_13_tells_what_chapter_15_found_of_the_default() -> None:
    rows = records("attacked.json")["rows"]

    def mean(row: str, number: str) -> float:
        values = [run["numbers"][number] for run in rows[row]["runs"]]
        return float(sum(values) / len(values))

    back, control = mean("constrained-newton, default", "relearned"), mean("twin", "relearned")
    text = prose("ch13_your_model")
    assert f"the loss of the other half falls to {back:.2f}" in text
    assert f"comes down to {control:.2f} under the same attack" in text
    default, control = (mean(row, "auc, gradient norm") for row in ("constrained-newton, default", "twin"))
    assert f"an AUC of {default:.2f} where a retrained model has {control:.2f}" in text
    runs = [run for row in ("constrained-newton, 25 %", "constrained-newton, default") for run in rows[row]["runs"]]
    assert len(runs) == 8
    assert {run["outcome"] for run in runs} == {"over-erased"}


def test_the_five_minutes_name_what_is_the_papers_and_what_is_not() -> None:
    text = prose("five_minutes")
    assert "the paper's method at the paper's setting" not in text
    assert "The step is longer than the paper's, 0.3 for 0.00025" in text


def test_the_front_page_says_where_its_numbers_come_from() -> None:
    text = page("book/intro.md")
    assert "```{figure} ../figures/exam_frontier.png" in text
    assert "Every number on these pages comes from a run record in `results/`" not in text
    assert "`benchmarks/`" in text
    assert "## How long it takes" in text
    reading = [
        name
        for name in (
            "ch09_second_order",
            "ch14_real",
            "ch15_audit",
            "exam_frontier",
            "other_roads",
            "exam_conflicts",
            "cluster",
        )
        if "benchmarks" in "".join(cell.source for cell in code(name))
    ]
    assert "ch14_real" in reading
    for name in reading:
        assert name in text or name.startswith("ch")
    assert "All numbers in this book are from these texts" not in page("book/private_data.md")


def test_the_front_pages_have_the_hours_of_the_reading_times() -> None:
    times = (ROOT / "book/reading_times.md").read_text(encoding="utf-8")
    (reading,), (studying,) = (
        re.findall(r"take about \*\*(\d+) hours\*\*", times),
        re.findall(r"about \*\*(\d+) hours\*\* with all", times),
    )
    intro, readme = ((ROOT / name).read_text(encoding="utf-8") for name in ("book/intro.md", "README.md"))
    assert f"about {reading} hours to read, and about {studying} with its exercises" in intro
    assert f"about {reading} hours of reading, and {studying} with its exercises" in readme


def test_what_was_run_on_a_gpu_is_told() -> None:
    text = page("README.md")
    assert "Nothing of this has been run on a GPU" not in text
    assert "The profiles `gpu` and `paper` have not been run" in text
    assert not list((ROOT / "results").glob("gpu/*"))
    for name in ("real.json", "curvature-h100.json", "one_card.json"):
        assert f"benchmarks/{name}" in text
        assert "NVIDIA" in json.dumps(records(name)["environment"])
