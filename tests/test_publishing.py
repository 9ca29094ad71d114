"""What is made for readers when the book is built or published: how each figure was made, notebooks for Colab, the configuration."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from unlearn_lib.reproduction.book import build, colab, made
from unlearn_lib.reproduction.book.notebooks import parameters
from unlearn_lib.reproduction.inventory import ITEMS
from unlearn_lib.reproduction.runs.finished import load
from unlearn_lib.reproduction.runs.grids import GRIDS
from unlearn_lib.reproduction.runs.store import RunStore

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return made.pages(ROOT)


def test_every_notebook_has_a_page_on_how_it_was_made(pages: dict[str, str]) -> None:
    index, *others = pages
    assert others == [f"{index}/{identifier}" for identifier in ITEMS]
    for identifier, item in ITEMS.items():
        text = pages[f"{index}/{identifier}"]
        assert f"<made/{identifier}>" in pages[index]
        for name, default in parameters(ROOT / "notebooks" / item.notebook).items():
            assert f"| `{name}` | {type(default).__name__} |" in text
        assert ("results/nano" in text) == (identifier in GRIDS)


def test_the_page_of_a_figure_has_its_runs_and_numbers(pages: dict[str, str]) -> None:
    text = pages["book/made/fig04"]
    records = load(GRIDS["fig04"](book_profile()), RunStore(ROOT / "results/nano"))
    assert f"{len(records)} in `results/nano/`" in text
    assert "| seeds | 0, 1, 2 |" in text
    assert records[0]["provenance"]["processor"] in text
    node = nbformat.read(ROOT / "notebooks/fig04_weights.ipynb", as_version=4)
    printed = [
        output.text.strip()
        for cell in node.cells
        if cell.cell_type == "code" and made.NOT_COMPARED not in cell.metadata.get("tags", [])
        for output in cell.outputs
        if output.output_type == "stream"
    ]
    assert printed
    assert all(lines in text for lines in printed)


def book_profile() -> Any:
    from unlearn_lib.reproduction.runs.profiles import NANO

    return NANO


def test_seconds_by_hand() -> None:
    records = [{"timing": {"cycle_1_seconds": 2.0, "cycle_2_seconds": 3.5}}, {"timing": {"seconds": 1.0}}]
    assert made.computing(records) == 6.5


def test_notebooks_for_colab(tmp_path: Path) -> None:
    written = colab.write(ROOT, "https://example.org/someone/unlearning.git", tmp_path / "notebooks")
    assert [path.name for path in written] == sorted(item.notebook for item in ITEMS.values())
    for path in written:
        node, original = (nbformat.read(p, as_version=4) for p in (path, ROOT / "notebooks" / path.name))
        nbformat.validate(node)
        added = [cell for cell in node.cells if cell.id == "fetch-and-install"]
        assert len(added) == 1
        assert [cell.source for cell in node.cells if cell.id != "fetch-and-install"] == [c.source for c in original.cells]
        first = next(cell for cell in node.cells if cell.cell_type == "code")
        assert first is added[0]
        assert '"https://example.org/someone/unlearning.git", str(folder)' in first.source
        assert 'Path("unlearning").resolve()' in first.source


def test_the_first_cell_does_nothing_in_a_checkout(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", colab.setup_cell("nowhere/at-all")], cwd=tmp_path, check=True)
    assert not list(tmp_path.iterdir())


def test_the_first_cell_fetches_and_installs(tmp_path: Path) -> None:
    """Run where the library cannot be found, with a repository of one file, and with pip's place taken by a recorder."""
    repository, place = tmp_path / "unlearning", tmp_path / "elsewhere"
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b"]
    repository.mkdir()
    place.mkdir()
    (repository / "unlearn_lib.py").write_text("FOUND = True\n")
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "one"]):
        subprocess.run([*git, *words], check=True)
    script = f"""
import importlib.util, subprocess
importlib.util.find_spec = lambda name: None
run, calls = subprocess.run, []
subprocess.run = lambda words, check: calls.append(words) if "pip" in words else run(words, check=check)
{colab.setup_cell(repository.as_uri())}
import unlearn_lib
assert unlearn_lib.FOUND
assert calls == [[sys.executable, "-m", "pip", "install", "--quiet", "--editable", f"{{folder}}[book,dp,lora]"]]
"""
    subprocess.run([sys.executable, "-I", "-c", script], cwd=place, check=True)
    assert (place / "unlearning" / "unlearn_lib.py").exists()


def test_the_book_has_buttons_where_its_repository_is_known(tmp_path: Path) -> None:
    plain = yaml.safe_load(build.configure(ROOT, tmp_path, None).read_text())
    assert "repository" not in plain
    assert "launch_buttons" not in plain
    config = yaml.safe_load(build.configure(ROOT, tmp_path, "someone/unlearning").read_text())
    assert config["repository"] == {"url": "https://github.com/someone/unlearning", "branch": "colab"}
    assert config["launch_buttons"] == {"colab_url": "https://colab.research.google.com"}
    assert config["html"]["use_repository_button"]
    assert config["bibtex_bibfiles"] == plain["bibtex_bibfiles"]


def test_the_workflow_calls_what_there_is() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/book.yml").read_text())
    called = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    targets = {line.split()[1] for words in called for line in words.splitlines() if line.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text()
    assert targets == {"lint", "tests", "nbval", "book", "pages", "setup", "course", "pdf"}
    assert all(f"\n{target}:" in makefile for target in targets)
    assert workflow["jobs"]["deploy"]["needs"] == ["tests", "nbval", "build"]


def test_pages_are_mended() -> None:
    page = '<script>const THEBE_JS_URL = "x"</script><p>text</p><div role="list" class="citation-list"></div>'
    assert build.mended(page) == '<p>text</p><div class="citation-list"></div>'
    switch = '<summary><span class="toctree-toggle">v</span></summary>'
    assert build.mended(switch) == switch.replace("<summary>", '<summary aria-label="the pages below">')
