"""What a lecturer gets: notebooks for students, and what stands on the pages for a course."""

from __future__ import annotations

import json
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
import yaml
from benchmark_script import script
from click.testing import CliRunner

from unlearn_lib.checks import NotRightYetError
from unlearn_lib.command.cli import main
from unlearn_lib.errors import InputError
from unlearn_lib.reproduction.book import build, course, notebooks, reading, slides, students, teaching, weeks
from unlearn_lib.reproduction.book.reading import Counts, Rule

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "notebooks").glob("ch[0-9][0-9]_*.ipynb"))
code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell

QUESTION = ":::{admonition} Exercise 1 (in code)\n:class: tip\nCall a third `third`.\n:::"
ANSWER = ":::{admonition} Solution 1\n:class: dropdown\nDivide one by three.\n```{math}\n1 / 3\n```\n:::"
SOLUTION = "helper = 3\nthird = 1 / helper\nunused = [k for k in range(helper)]\nprint('the secret way')"
CHECK = "exercise(1, lambda x: abs(3 * x - 1) < 1e-9, third, wrong=[0.5], hint='it is below a half')"


def tagged(source: str, *tags: str) -> Any:
    return code(source, metadata={"tags": list(tags)})


def chapter() -> Any:
    """A master with two exercises that are checked, and one that is not."""
    cells = [
        text("# A chapter"),
        code("from unlearn_lib.checks import exercise\nimport torch"),
        text(f"## Exercises\n\n{QUESTION}\n\n{ANSWER}"),
        tagged(SOLUTION, "hide-cell", "solution"),
        tagged(CHECK, "hide-input", "exercise"),
        text(ANSWER.replace("Solution 1", "Solution 2")),
        tagged("def double(x):\n    import math\n    return x * 2", "hide-cell", "solution"),
        tagged("exercise(2, lambda f: f(torch.ones(2)).sum() == 4, double, wrong=[lambda x: x])", "exercise"),
        tagged("print('what the lecturer thinks')", "hide-cell", "solution"),
        text("## What to take along\n\n* One third."),
    ]
    cells[1].outputs, cells[1].execution_count = [nbformat.v4.new_output("stream", text="leaked\n")], 1
    return nbformat.v4.new_notebook(cells=cells)


def executed(node: Any) -> None:
    """Run the code cells one after the other, as a kernel would."""
    names: dict[str, object] = {}
    for cell in node.cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, "a cell", "exec"), names)


def sources(node: Any) -> str:
    return "\n".join(cell.source for cell in node.cells)


@pytest.mark.parametrize(
    ("solution", "check", "names"),
    [
        (SOLUTION, CHECK, ["third"]),
        ("def f(x):\n    return x", "exercise(1, right, f, wrong=[abs])", ["f"]),
        ("a, (b, *c) = 1, (2, 3)\nd = 4", "g = lambda x: x > b\nexercise(1, g, d, wrong=[c])", ["b", "c", "d"]),
        ("import math\nroot = math.sqrt(2)", "exercise(1, lambda x: x * x == 2, root, wrong=[1])", ["root"]),
        ("x = 3\nresult = x", "exercise(1, lambda x: x == 3, result, wrong=[2])", ["result"]),
        ("right = 3\nanswer = right", "right = lambda y: y == 3\nexercise(1, right, answer, wrong=[2])", ["answer"]),
        ("for k in range(3):\n    last = k", "exercise(1, lambda y: y == 2, last, wrong=[0])", ["last"]),
    ],
)
def test_a_stub_sets_what_the_check_uses_and_nothing_else(solution: str, check: str, names: list[str]) -> None:
    made = students.stub(solution, check)
    assert made.splitlines()[1:] == [f"{name} = ..." for name in names]


def test_a_check_of_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="uses no name that the solution before it sets"):
        students.stub("third = 1 / 3", "exercise(1, right, 0.3, wrong=[1])")


def test_nothing_of_a_solution_is_left_for_students() -> None:
    master = chapter()
    before = nbformat.writes(master)
    node = students.student(master)
    nbformat.validate(node)
    said = nbformat.writes(node)
    for leaked in ("helper", "secret way", "1 / 3", "Divide one", "Solution", "return x * 2", "lecturer", "leaked"):
        assert leaked not in said
    assert "Call a third `third`." in said
    assert [cell.source for cell in node.cells if cell.source.startswith("#") and cell.cell_type == "code"] == [
        "# Replace the dots by your answer. The next cell checks it.\nthird = ...",
        "# Replace the dots by your answer. The next cell checks it.\ndouble = ...",
        students.OWN_WORK,
    ]
    assert not [cell for cell in node.cells if "hide-cell" in cell.metadata.get("tags", [])], "a stub stands open"
    assert nbformat.writes(master) == before


def test_a_student_stops_at_the_first_exercise_and_goes_on_with_the_answer() -> None:
    node = students.student(chapter())
    with pytest.raises(NotRightYetError, match="exercise 1 has no answer yet"):
        executed(node)
    (blank,) = [cell for cell in node.cells if "third = ..." in cell.source]
    blank.source = "third = 0.3"
    with pytest.raises(NotRightYetError, match="exercise 1 is not right yet: it is below a half"):
        executed(node)
    blank.source = "third = 1 / 3"
    with pytest.raises(NotRightYetError, match="exercise 2 has no answer yet"):
        executed(node)


def test_solutions_execute(capsys: pytest.CaptureFixture[str]) -> None:
    node = students.solved(chapter())
    assert not [cell for cell in node.cells if cell.get("outputs")]
    executed(node)
    assert capsys.readouterr().out.splitlines() == [
        "the secret way",
        "exercise 1: right",
        "exercise 2: right",
        "what the lecturer thinks",
    ]


def test_a_solution_without_an_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ch01.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[text(":::{admonition} Solution 1\nno end")]), path)
    with pytest.raises(InputError, match=r"ch01\.ipynb: the fence of a solution is not closed by a line ':::'"):
        students.write([path], tmp_path / "out")
    assert not (tmp_path / "out").exists(), "all or nothing"


def test_dropdowns_go_and_hints_stay() -> None:
    left = students.without_solutions(
        "a\n\n:::{dropdown} Solutions\n1. one\n:::\n\n:::{admonition} Hints\n:class: dropdown\nthink\n:::"
    )
    assert left == "a\n\n:::{admonition} Hints\n:class: dropdown\nthink\n:::"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_chapter_has_both_versions(path: Path) -> None:
    master = nbformat.read(path, as_version=4)
    node, full = students.student(master), students.solved(master)
    nbformat.validate(node)
    assert [cell.source for cell in full.cells] == [cell.source for cell in master.cells]
    assert "} Solution" not in sources(node)
    hidden = [cell.source for cell in master.cells if students.SOLUTION & set(cell.metadata.get("tags", []))]
    left = sources(node)
    assert not [source for source in hidden if source in left]
    checks = [cell for cell in master.cells if students.EXERCISE in cell.metadata.get("tags", [])]
    # one answer for each: a check that reads more of the solution fails on the dots before it can say that the answer is missing
    assert left.count(" = ...") == len(checks)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_who_skips_an_exercise_can_run_what_stands_below_it(path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    known: set[str] = set()  # names that a student has without any solution
    answers: set[str] = set()
    for cell in cells:
        tags = set(cell.metadata.get("tags", []))
        source = re.sub(r"^[%!].*$", "", cell.source, flags=re.MULTILINE)
        if students.SOLUTION & tags:
            answers |= students.defined(source) - known
        elif students.EXERCISE not in tags:
            assert not answers & students.used(source), f"a cell needs an answer: {source[:200]}"
            known |= students.defined(source)
            answers -= known


def stops_at_its_first_exercise(path: Path, folder: Path) -> None:
    students.write([path], folder)
    with pytest.raises(InputError, match=r"failed with NotRightYetError: exercise \d has no answer yet"):
        notebooks.execute(folder / "student" / path.name, folder / "blank" / path.name, {}, ROOT)


QUICKEST = next(path for path in CHAPTERS if path.stem == "ch14_real")
"""It draws from records alone. `make nbval` runs the cells of every chapter with solutions, so that only one is run here."""


@pytest.mark.filterwarnings("default")
def test_a_chapter_of_the_book_runs_in_both_versions(tmp_path: Path) -> None:
    stops_at_its_first_exercise(QUICKEST, tmp_path)
    name = QUICKEST.name
    assert notebooks.execute(tmp_path / "solutions" / name, tmp_path / "run" / name, {}, ROOT)


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", [path for path in CHAPTERS if path != QUICKEST], ids=lambda path: path.stem)
def test_every_other_chapter_stops_a_student_at_the_first_exercise(path: Path, tmp_path: Path) -> None:
    stops_at_its_first_exercise(path, tmp_path)


def test_the_command_writes_everything(tmp_path: Path) -> None:
    said = CliRunner().invoke(main, ["course", "--out", str(tmp_path / "course")], catch_exceptions=False)
    assert said.exit_code == 0
    made = tmp_path / "course"
    for part in students.PARTS:
        assert [path.name for path in sorted((made / part).iterdir())] == [path.name for path in CHAPTERS]
    pages = sorted((made / "slides").glob("*.html"))
    assert len(pages) == len(weeks.WEEKS)
    assert (made / "slides" / "mathjax" / "tex-mml-chtml.js").is_file()


def test_the_command_says_what_is_missing() -> None:
    said = CliRunner().invoke(main, ["course"])
    assert said.exit_code == 2
    assert "say where the material goes with --out DIR" in said.output


def test_archives_are_the_same_twice(tmp_path: Path) -> None:
    for name in ("a", "b"):
        course.write(ROOT, tmp_path / name, mathjax_folder="../mathjax", archives=True)
    first = (tmp_path / "a" / "student.zip").read_bytes()
    assert first == (tmp_path / "b" / "student.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a" / "student.zip") as archive:
        assert archive.namelist() == [f"student/{path.name}" for path in CHAPTERS]
    assert not (tmp_path / "a" / "mathjax").exists(), "the book has it already"


class Loaded(HTMLParser):
    """What a page loads, and its headings."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.without_words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = dict(attrs)
        if has.get("src"):
            self.loaded.append(str(has["src"]))
        if tag == "img" and " " not in (has.get("alt") or ""):
            self.without_words.append(str(has)[:100])


@pytest.mark.parametrize("number", range(1, len(weeks.WEEKS) + 1))
def test_slides_show_the_chapters_and_load_nothing_from_elsewhere(number: int) -> None:
    page = slides.week(ROOT, number)
    found = Loaded(page)
    assert found.without_words == []
    assert {address for address in found.loaded if not address.startswith("data:image/")} == {"mathjax/tex-mml-chtml.js"}
    figures = 0
    for chapter_number in weeks.WEEKS[number - 1].chapters:
        node = nbformat.read(weeks.chapter(ROOT, chapter_number), as_version=4)
        figures += sum("image/png" in output.get("data", {}) for cell in node.cells for output in cell.get("outputs", []))
    assert page.count("data:image/png") == figures
    assert "{doc}" not in page
    assert "} Solution" not in page


def test_slides_of_a_small_chapter(tmp_path: Path) -> None:
    drawing = tmp_path / "drawing.svg"
    drawing.write_text("<svg/>")
    words = (
        "# Title\n\nAfter this you can *see*, as in {cite:t}`gu2024`.\n\n## A formula\n\n```{math}\n:label: x\na < b \\\\ c\n```\n\n"
        "## A drawing\n\n```{figure} drawing.svg\n:name: d\n:alt: A small drawing\n\nWhat it shows, $a_b$ {doc}`there <x>`.\n```\n\n"
        "## Exercises\n\nnot shown\n\n## What to take along\n\n* One thing."
    )
    node = nbformat.v4.new_notebook(cells=[text(words)])
    made = list(slides._of_chapter(node, tmp_path, slides._renderer()))
    assert [slide.heading for slide in made] == ["Title", "A formula", "A drawing", "What to take along"]
    assert made[0].body == "<p>After this you can <em>see</em>, as in.</p>\n"
    assert r"\[\begin{aligned}a &lt; b \\ c\end{aligned}\]" in made[1].body
    assert 'alt="A small drawing"' in made[2].body
    assert r"\(a_b\)" in made[2].body
    assert "there." in made[2].body
    assert made[3].body == "<ul>\n<li>One thing.</li>\n</ul>\n"


COUNTED = """# A title

Five words stand here now, $a + b$ and {doc}`a link <somewhere>`.

```{math}
:label: it
e = m c^2 \\text{many words in here}
```

$$ x = y $$

```python
code = "is not counted as words"
```

:::{admonition} Exercise 1 (by hand)
:class: tip
Do it.
:::

:::{admonition} Solution 1
:class: dropdown
Long words that nobody counts, $q$.
:::

:::{admonition} Exercise 2 (open-ended)
:class: tip
Think.
:::
"""


def test_counts_of_a_made_up_chapter() -> None:
    plain = code("a = 1\n\nb = 2")
    plain.outputs = [nbformat.v4.new_output("display_data", data={"image/png": "", "text/plain": ""})]
    cells = [
        text(COUNTED),
        plain,
        tagged("c = 3", "hide-input"),
        tagged("d = 4", "solution"),
        tagged("seed: int = 0", "parameters"),
    ]
    found = reading.counts(nbformat.v4.new_notebook(cells=cells))
    # A title, Five .. now, and, a link; Exercise 1 by hand, Do it; Exercise 2 open-ended, Think
    assert found == Counts(
        words=2 + 5 + 1 + 2 + 4 + 2 + 3 + 1, displayed=2, inline=1, lines=2, figures=1, exercises=1, open_ended=1
    )


def test_exercises_of_a_plain_list_are_counted() -> None:
    node = nbformat.v4.new_notebook(cells=[text("## Exercises\n\n1. One?\n2. Two?\n\n:::{dropdown} Solutions\n1. One.\n:::")])
    assert reading.counts(node).exercises == 2


def test_minutes_follow_from_the_rule() -> None:
    rule = Rule(100, 60, 6, 3, 30, 10, 25)
    found = Counts(words=500, displayed=2, inline=10, lines=20, figures=4, exercises=3, open_ended=1)
    assert rule.reading(found) == pytest.approx(5 + 2 + 1 + 1 + 2)
    assert rule.studying(found) == pytest.approx(11 + 30 + 25)


def test_the_last_section_before_the_exercises() -> None:
    cells = [text("# T\n\nx"), text("## One\n\na b"), text("## Two\n\nc d e"), code("f = 1"), text("more\n\n## Exercises\n\ng")]
    heading, found = reading.last_section(nbformat.v4.new_notebook(cells=cells))
    assert (heading, found.words, found.lines) == ("Two", 4, 1)
    with pytest.raises(InputError, match="a section named Exercises"):
        reading.last_section(nbformat.v4.new_notebook(cells=cells[:2]))


@pytest.mark.parametrize(("minutes", "said"), [(4, "0 min"), (14, "15 min"), (58, "1 h"), (100, "1 h 45 min")])
def test_hours(minutes: float, said: str) -> None:
    assert teaching.hours(minutes) == said


@pytest.mark.parametrize("path", teaching.PAGES)
def test_pages_are_what_the_chapters_give(path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == teaching.pages(ROOT)[path], "write them anew: unlearn course --pages"


def test_the_weeks_read_every_chapter_once_and_after_what_it_needs() -> None:
    order = [number for week in weeks.WEEKS for number in week.chapters]
    assert sorted(order) == list(range(1, len(CHAPTERS) + 1))
    assert weeks.masters(ROOT) == CHAPTERS
    assert all(order.index(before) < order.index(number) for number, needs in weeks.NEEDS.items() for before in needs)
    for chapters in weeks.SHORTER.values():
        assert all(set(weeks.NEEDS.get(number, ())) <= set(chapters) for number in chapters)


def test_the_work_of_the_weeks() -> None:
    assert [weeks.work(number) for number in (1, 6, 9)] == [
        "",
        "assignment 2 is due; {ref}`assignment 3 <assignment-3>` is set; {ref}`projects <course-project>` are chosen",
        "{ref}`assignment 4 <assignment-4>` is set",
    ]
    assert weeks.work_minutes(1) == 0
    assert weeks.work_minutes(6) == pytest.approx(4 * 60 / 3 + 4 * 60 / 3)
    minutes = sum(weeks.work_minutes(number) for number in range(1, len(weeks.WEEKS) + 1))
    assert minutes == pytest.approx(60 * sum(item.hours for item in weeks.WORK))
    for item in weeks.WORK:
        assert all(1 <= number <= len(weeks.WEEKS) for number in (*item.weeks, *item.events))


def test_the_assignments_say_what_the_weeks_say() -> None:
    read = {number: at for at, week in enumerate(weeks.WEEKS, 1) for number in week.chapters}
    parts = dict(re.findall(r"^\(([\w-]+)\)=\n(.*?)(?=^\(|\Z)", page("assignments"), flags=re.MULTILINE | re.DOTALL))
    assert list(parts) == [item.label for item in weeks.WORK]
    for item in weeks.WORK[:-1]:
        (chapters, set_in, due), *rest = re.findall(
            r"\*Chapters ([^.]*)\. Set in week (\d+), due in week (\d+)\.\*", parts[item.label]
        )
        assert not rest
        assert list(map(int, (set_in, due))) == list(item.events), item.name
        numbers = [int(number) for number in re.findall(r"\d+", chapters)]
        span = range(numbers[0], numbers[1] + 1) if " to " in chapters else numbers
        assert max(read[number] for number in span) <= int(due), "what an assignment is about is read before it is due"
    project = weeks.WORK[-1]
    chosen, rule, presented = project.events
    assert f"*Chosen in week {chosen}, handed in and presented in week {presented}" in parts[project.label]
    assert f"handed in at the end of week {rule}" in " ".join(parts[project.label].split())
    assert read[12] <= rule, "chapter 12 says how a rule is written"


def test_a_section_of_another_notebook_is_read_and_shown() -> None:
    ((number, part),) = [(number, part) for number, week in enumerate(weeks.WEEKS, 1) for part in week.sections]
    node = weeks.section(ROOT, part)
    assert reading.counts(node).displayed >= 1
    assert part.heading in slides.week(ROOT, number)
    assert f'the section "{part.heading}"' in page("plan")
    with pytest.raises(InputError, match="has no section 'Nothing'"):
        weeks.section(ROOT, weeks.Section(part.notebook, "Nothing", ""))


def test_the_map_draws_these_arrows() -> None:
    drawing = (ROOT / "book/_static/drawings/course-map.svg").read_text(encoding="utf-8")
    drawn = {(int(a), int(b)) for a, b in re.findall(r'id="from(\d+)to(\d+)"', drawing)}
    assert drawn == {(before, number) for number, needs in weeks.NEEDS.items() for before in needs}
    assert {int(number) for number in re.findall(r">(\d+) [^<]+</text>", drawing)} == set(range(1, len(CHAPTERS) + 1))


def test_the_computing_of_a_notebook_is_measured(
    benchmark_scripts: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chapters = script("chapters")
    small = nbformat.v4.new_notebook(cells=[tagged("seed: int = 0  # a seed", "parameters")])
    (tmp_path / "notebooks").mkdir()
    nbformat.write(small, tmp_path / "notebooks" / "ch01_why.ipynb")
    monkeypatch.setattr(chapters, "project_root", lambda: tmp_path)
    out = tmp_path / "out.json"
    said = CliRunner().invoke(chapters.main, ["ch01", "--out", str(out)], catch_exceptions=False)
    assert said.exit_code == 0
    found = json.loads(out.read_text())
    assert 0 < found["notebooks"]["ch01_why"]["seconds"] < 60
    assert 20 < found["notebooks"]["ch01_why"]["mebibytes"] < 2000
    assert found["environment"]["threads"] >= 1


def test_every_chapter_was_measured() -> None:
    report = json.loads((ROOT / "benchmarks" / "chapters.json").read_text())
    assert report["environment"]["threads"] == 1
    assert {path.stem for path in CHAPTERS} <= set(report["notebooks"])


def page(name: str) -> str:
    return (ROOT / "book" / "course" / f"{name}.md").read_text(encoding="utf-8")


def follow_the_assignments(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the code and the commands of a version of the page, in a folder; returns the names that the code has set."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    fragments = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert len(fragments) == 4, "one for each assignment"
    for fragment in fragments:
        exec(compile(fragment, "assignments.md", "exec"), names)
    (commands,) = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    for line in commands.splitlines():
        said = CliRunner().invoke(main, line.split()[1:], catch_exceptions=False)
        assert said.exit_code == 0, (line, said.output)
    assert (folder / "audit" / "report.json").is_file()
    return names


SHORTER = {
    '{"train": 48, "holdout": 24,': '{"train": 20, "holdout": 8,',
    "notes[:8], notes[8:]": "notes[:4], notes[4:]",
    "retain[:24], retain[24:]": "retain[:10], retain[10:]",
    "epochs=10": "epochs=3",
    '"epochs": 10': '"epochs": 3',
    "--out unlearned": "--method gradient-ascent --set step=0.1 --out unlearned",
    "--out audit": "--no-attacks --out audit",
}
"""What makes the assignments short enough for a test: fewer notes and passes, one step of a cheap method, no attacks that train."""


def test_code_and_commands_of_the_assignments_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page("assignments")
    for printed, shorter in SHORTER.items():
        assert text.count(printed) == 1, printed
        text = text.replace(printed, shorter)
    names = follow_the_assignments(text, tmp_path, monkeypatch)
    assert [len(names[part]) for part in ("forget", "given", "outside", "unseen")] == [4, 10, 6, 8]


@pytest.mark.nightly
def test_the_assignments_as_they_are_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = follow_the_assignments(page("assignments"), tmp_path, monkeypatch)
    losses = {part: names["text_losses"](names["model"], names["tokenizer"], names[part]) for part in ("forget", "unseen")}
    assert names["loss_attack_auc"](losses["forget"], losses["unseen"]) > 0.9
    # what the rubrics say
    solve, F, gradient = names["solve"], names["F"], names["gradient"]
    iterated = solve(F, gradient, names["ConjugateGradients"](damping=names["damping"]), tolerance=1e-4)
    direct = solve(F, gradient, names["Woodbury"](damping=names["damping"]))
    n, T = F.sequences, sum(len(names["tokenizer"](row["text"])["input_ids"]) for row in names["given"]) / F.sequences
    assert 55 < T < 65
    assert iterated.iterations <= n + 1
    assert iterated.gradient_evaluations == pytest.approx(2 * iterated.iterations * n, rel=0.15)
    assert direct.gradient_evaluations == pytest.approx(2 * n + n**2 / (3 * T), rel=0.15), "with the verification"
    assert 3000 < 6 * iterated.iterations * T < 8000, "some thousand texts"
    start = names["flatten"](dict(names["model"].named_parameters())).detach()
    steps = {k: names["flatten"](dict(m.named_parameters())).detach() - start for k, m in names["outcomes"].items()}
    cosines = {k: float(torch.cosine_similarity(step, steps["gradient"], dim=0)) for k, step in steps.items()}
    assert cosines["damping 1"] > 0.99
    assert cosines["damping 1e-6"] < 0.5
    cost = json.loads((tmp_path / "unlearned" / "report.json").read_text(encoding="utf-8"))["cost"]
    assert 200 < cost["gradient_evaluations"] < 515, "below the plan, which says at most"
    assert cost["gradient_evaluations"] + cost["forward_evaluations"] / 3 > 10 * 40, "more than retraining takes"


def test_points_of_the_rubrics() -> None:
    parts = page("assignments").split("\n(")[1:]
    sums = [sum(int(points) for points in re.findall(r"^\| (\d+) \|", part, flags=re.MULTILINE)) for part in parts]
    assert sums == [20, 20, 20, 20, 50]


MADE_BY = {"runs": r"\b(train|unlearn|solve|randn|train_private|epsilon)\(", "records": r"\brecords\(|\.json\""}
"""What the code of a page has that computes its checks anew, or reads them from committed results."""


def test_every_misconception_has_a_page_with_a_check() -> None:
    entries = [entry for entry in page("misconceptions").split("\n\n") if entry.startswith("**")]
    assert 10 <= len(entries) <= 15
    for entry in entries:
        pages = re.findall(r"\{doc\}`\.\./\.\./notebooks/(\w+)`( \((runs|records)\))?", entry)
        assert pages, entry
        for name, _, how in pages:
            assert how, f"say whether the check of {name} runs or reads records: {entry}"
            cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
            assert any(re.search(r"^check\(", cell.source, re.MULTILINE) for cell in cells), name
            assert any(cell.cell_type == "code" and re.search(MADE_BY[how], cell.source) for cell in cells), (name, how)


HOLDS = {
    "deleted from the files": [("ch01_why", r"The patient's name, .*, is in what the model wrote")],
    "higher the loss": [("ch03_forgotten", r"over-erased model's forget loss is 1\.\d+ nats above")],
    "One copy": [("exam_duplicates", r"retraining leaves 0\.0, 8\.9 and 46\.1 % of the personal data")],
    "Noise on the weights": [("ch09_second_order", r"damage ratio is 0\.9 to 1\.0")],
    "audit that finds nothing": [
        ("ch15_audit", r"By the loss their AUC is 0\.63 or 0\.64"),
        ("ch15_audit", r"0\.83 for constrained Newton"),
    ],
    "Gradient ascent damages": [("ch04_first_order", r"cosine of the two gradients is negative")],
    "up to sampling": [
        ("ch06_curvature", r"Before training the trace of F_token is 1\.\d+ times the GGN's"),
        ("ch06_curvature", r"At the end the trace of F_token is 0\.00\d+ of the GGN's"),
    ],
    "formula with an inverse": [("ch08_damping", r"At λ = 1 the cosine of step and gradient is at least 0\.99")],
    "less damping": [
        ("ch08_damping", r"The best λ of the blocks lies strictly inside the sweep"),
        ("ch08_damping", r"lowest damage is at the smallest λ of that sweep"),
        ("ch08_damping", r"damage of the whole matrix at λ = 1e-8 is less than 1\.1 times that at 1e-3"),
    ],
    "lowest exposure": [("ch11_measuring", r"retain loss rises by 1\.7 nats and its accuracy falls by 30 points")],
    "method was given": [
        ("exam_frontier", r"Damage on used texts is at most 0\.\d+ times that outside"),
        ("ch09_second_order", r"0\.2 to 0\.8 times"),
    ],
    "Seconds say": [("ch11_measuring", r"The seconds spread by 12 % and more")],
}
"""The sentences of checks, as the chapters print them, that the answers on the page rest on."""


@pytest.mark.parametrize("belief", HOLDS)
def test_the_answer_to_a_misconception_is_what_its_page_prints(belief: str) -> None:
    (entry,) = [entry for entry in page("misconceptions").split("\n\n") if belief in entry.partition('."**')[0]]
    for name, sentence in HOLDS[belief]:
        assert f"notebooks/{name}`" in entry
        cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
        printed = "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))
        assert re.search(rf"^holds: .*{sentence}", printed, re.MULTILINE), (name, sentence)


def test_links_to_slides_and_archives() -> None:
    links = set(re.findall(r"_static/course/([\w.]+)", page("material")))
    assert links == {f"{part}.zip" for part in students.PARTS} | {f"week{n}.html" for n in range(1, len(weeks.WEEKS) + 1)}


def test_the_course_is_in_the_book() -> None:
    parts = yaml.safe_load((ROOT / "book/_toc.yml").read_text())["parts"]
    (files,) = [[chapter["file"] for chapter in part["chapters"]] for part in parts if part["caption"] == "Teach it"]
    written = {f"book/course/{path.stem}" for path in (ROOT / "book" / "course").glob("*.md")}
    assert set(files) == written | {"book/reading_times"}


def test_cells_of_parameters_are_folded_under_a_label() -> None:
    cell = tagged("seed: int = 0", "parameters")
    build.fold_parameters(cell)
    assert cell.metadata.tags == ["parameters", "hide-input"]
    assert cell.metadata.mystnb == {"code_prompt_show": "Show the parameters", "code_prompt_hide": "Hide the parameters"}
    replaced = tagged("seed: int = 0", "parameters", "remove-cell")
    build.fold_parameters(replaced)
    assert replaced.metadata.tags == ["parameters", "remove-cell"]


def test_folded_cells_have_labels_of_this_book() -> None:
    config = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]
    assert config["nb_code_prompt_show"] == "Show the code"
    assert config["nb_code_prompt_hide"] == "Hide the code"
