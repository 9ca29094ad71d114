"""A switch of a notebook is true or false, however it is given; files are UTF-8, whatever the locale."""

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from click.testing import CliRunner

from unlearn_lib.errors import InputError
from unlearn_lib.reproduction.book import notebooks
from unlearn_lib.reproduction.book.session import begin

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def given(tmp_path: Path, *words: str) -> Any:
    """What papermill's own command makes of `recompute`."""
    from papermill.cli import papermill

    cell = nbformat.v4.new_code_cell("recompute: bool = False  # a switch", metadata={"tags": ["parameters"]})
    node = nbformat.v4.new_notebook(cells=[cell])
    node.metadata["kernelspec"] = {"name": "python3", "display_name": "x", "language": "python"}
    nbformat.write(node, tmp_path / "in.ipynb")
    out = tmp_path / "out.ipynb"
    result = CliRunner().invoke(
        papermill, [str(tmp_path / "in.ipynb"), str(out), *words, "--prepare-only", "--no-progress-bar"]
    )
    assert result.exit_code == 0, result.output
    values: dict[str, Any] = {}
    for cell in nbformat.read(out, as_version=4).cells:
        exec(cell.source, values)
    return values["recompute"]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("word", ["no", "false", "0", "1", "yes", "None"])
def test_what_papermill_does_not_make_a_bool_is_refused(tmp_path: Path, word: str) -> None:
    value = given(tmp_path, "-p", "recompute", word)
    with pytest.raises(InputError, match="the parameter recompute is either True or False, not"):
        begin("nano", "cpu", value)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("words", [("-p", "recompute", "True"), ("-y", "recompute: yes")])
def test_a_bool_is_taken(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert begin("nano", "cpu", given(tmp_path, *words)).recompute is True


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_switch_of_a_notebook_is_checked(path: Path) -> None:
    switches = {name for name, default in notebooks.parameters(path).items() if isinstance(default, bool)}
    source = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    assert switches <= {"recompute"}
    assert ("recompute" in switches) == ("begin(profile, device, recompute)" in source)


@pytest.mark.parametrize("word", ["no", "0", "off", "'true'"])
def test_our_own_command_refuses_it_as_well(word: str) -> None:
    with pytest.raises(InputError, match=r"parameter recompute of table03_arc\.ipynb is bool"):
        notebooks.parse(ROOT / "notebooks" / "table03_arc.ipynb", {"recompute": word})


def sources() -> list[tuple[str, ast.Module]]:
    """The code of the reproduction, of the notebooks too."""
    modules = [(path.name, path.read_text(encoding="utf-8")) for path in (ROOT / "unlearn_lib/reproduction").rglob("*.py")]
    cells = [(path.name, nbformat.read(path, as_version=4).cells) for path in NOTEBOOKS]
    return [(name, ast.parse(text)) for name, text in modules] + [
        (name, ast.parse("\n".join(cell.source for cell in found if cell.cell_type == "code"))) for name, found in cells
    ]


def test_every_file_is_read_and_written_as_utf_8() -> None:
    bare = []
    for name, tree in sources():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            method = isinstance(call.func, ast.Attribute)
            keywords = {keyword.arg for keyword in call.keywords}
            if (called == "open" or (method and called in ("read_text", "write_text", "to_csv", "read_csv"))) and (
                "encoding" not in keywords
            ):
                bare.append(f"{name}:{call.lineno}")
            if called == "run" and "text" in keywords:
                bare.append(f"{name}:{call.lineno}")
    assert not bare


@pytest.mark.nightly
def test_the_page_of_verdicts_is_the_same_in_a_locale_without_unicode(tmp_path: Path) -> None:
    code = (
        "import locale, sys; from pathlib import Path; assert locale.getencoding() != 'utf-8'; "
        "from unlearn_lib.reproduction.book import session; from unlearn_lib.reproduction.verdicts.evidence import Evidence; "
        "from unlearn_lib.reproduction.verdicts.page import page; from unlearn_lib.files import write_text; "
        "write_text(sys.argv[1], page(Evidence(session.begin().records)))"
    )
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "page.md")], check=True, cwd=ROOT, env={**os.environ, **locale})
    assert (tmp_path / "page.md").read_bytes() == (ROOT / "book" / "verdicts.md").read_bytes()
