"""The notebooks' structure, and the driver. (Their outputs are compared by nbval, the second half of `make test`.)"""

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
import yaml

from unlearn_lib.errors import InputError
from unlearn_lib.reproduction.book import notebooks
from unlearn_lib.reproduction.checkout import project_root
from unlearn_lib.reproduction.inventory import ITEMS, find

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_code_cell_was_executed_in_order_without_error(path: Path) -> None:
    # strict nbval compares nothing in a cell that was never run
    code = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert outputs
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_one_typed_parameters_cell(path: Path) -> None:
    tagged = [cell for cell in read(path).cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert not [cell for cell in read(path).cells if "injected-parameters" in cell.metadata.get("tags", [])]
    lines = [line for line in tagged[0].source.splitlines() if line.strip() and not line.startswith("#")]
    assert all(re.fullmatch(r"\w+: (str|int|float|bool) = .+  # .+", line) for line in lines), lines
    assert set(notebooks.parameters(path)) >= {"profile", "seed", "device"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kernel_paths_and_place_in_the_book(path: Path) -> None:
    node = read(path)
    assert node.metadata.kernelspec.name == "python3"
    text = path.read_text()
    assert not re.search(r"/(home|root|work|tmp|Users)/", text)
    toc = yaml.safe_load((ROOT / "book/_toc.yml").read_text())
    files = [chapter["file"] for part in toc["parts"] for chapter in part["chapters"]]
    assert f"notebooks/{path.stem}" in files
    assert path.name in {item.notebook for item in ITEMS.values()}


def test_inventory_names_existing_notebooks() -> None:
    assert {item.notebook for item in ITEMS.values()} == {path.name for path in NOTEBOOKS}
    with pytest.raises(InputError, match="unknown table or figure 'table99'; choose one of: five_minutes, ch01"):
        find("table99")
    assert project_root(ROOT / "notebooks") == ROOT


@pytest.fixture
def example(tmp_path: Path) -> Path:
    cells = [
        nbformat.v4.new_code_cell(
            "n: int = 2  # a number\nx: float = 0.5  # another\nflag: bool = False  # a switch\nword: str = 'a'  # a word"
        ),
        nbformat.v4.new_code_cell("print(n * x, flag, word)\nassert n < 9, 'n is too large'"),
    ]
    cells[0].metadata["tags"] = ["parameters"]
    node = nbformat.v4.new_notebook(
        cells=cells, metadata={"kernelspec": {"name": "somebody-elses", "display_name": "x", "language": "python"}}
    )
    path = tmp_path / "example.ipynb"
    nbformat.write(node, path)
    return path


def test_parameters_are_checked_and_converted(example: Path) -> None:
    assert notebooks.parameters(example) == {"n": 2, "x": 0.5, "flag": False, "word": "a"}
    given = {"n": "7", "x": "3", "flag": "True", "word": "12"}
    assert notebooks.parse(example, given) == {"n": 7, "x": 3.0, "flag": True, "word": "12"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"m": "1"}, r"unknown parameter 'm' of example\.ipynb; choose one of: n, x, flag, word"),
        ({"n": "1.5"}, r"parameter n of example\.ipynb is int \(default 2\), got '1\.5'"),
        ({"n": "many"}, "parameter n of example"),
        ({"flag": "1"}, "parameter flag of example"),
    ],
)
def test_bad_parameters_are_refused(example: Path, given: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        notebooks.parse(example, given)


@pytest.mark.filterwarnings("default")
def test_execution_sets_the_kernel_stores_provenance_and_knows_what_is_fresh(example: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "example.ipynb"
    assert notebooks.execute(example, target, {"n": 4}, ROOT)
    node = read(target)
    assert node.cells[-1].outputs[0].text == "2.0 False a\n"
    assert node.metadata.papermill.parameters == {"n": 4}
    assert node.metadata.unlearn_lib.provenance["torch"]
    assert not notebooks.execute(example, target, {"n": 4}, ROOT), "fresh: not executed again"
    with pytest.raises(InputError, match=r"example\.ipynb failed with AssertionError: n is too large"):
        notebooks.execute(example, target, {"n": 9}, ROOT)
    assert read(target).metadata.papermill.parameters == {"n": 4}, "a failure leaves the last good result"
    assert "n is too large" in target.with_suffix(".failed.ipynb").read_text()


def test_fingerprint_follows_cells_and_parameters(example: Path) -> None:
    first = notebooks.fingerprint(example, {"n": 2}, ROOT)
    assert notebooks.fingerprint(example, {"n": 3}, ROOT) != first
    content = json.loads(example.read_text())
    content["cells"][1]["source"] = "print(n)"
    example.write_text(json.dumps(content))
    assert notebooks.fingerprint(example, {"n": 2}, ROOT) != first


def test_notebook_without_parameters_cell(tmp_path: Path) -> None:
    path = tmp_path / "bare.ipynb"
    nbformat.write(
        nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell("1")],
            metadata={"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}},
        ),
        path,
    )
    with pytest.raises(InputError, match="no cell tagged 'parameters'"):
        notebooks.parameters(path)
