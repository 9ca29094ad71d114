"""kill -9 at random moments, two processes on one folder, hostile texts: nothing is lost or half-written, and the same command ends."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from killing import CHANGES, Killer

from unlearn_lib import save_model
from unlearn_lib.data.files import write_rows

GRID = """
import json, sys
from dataclasses import replace
from pathlib import Path
from unlearn_lib.reproduction.runs.compute import compute
from unlearn_lib.reproduction.runs.scenarios import Scenario
from unlearn_lib.reproduction.runs.store import RunStore
from unlearn_lib.training.loop import TrainingConfig

def scenarios():
    sizes = dict(cycle_size=2, train_size=12, test_size=2, holdout_size=4, reference_size=4, measured=4)
    training = TrainingConfig(epochs=1)
    return [
        Scenario(task="arc_easy", model="nano/opt-s", method=method, seed=seed, training=training, options=options, **sizes)
        for seed in range(3)
        for method, options in (("gradient-ascent", {"step": 0.01}), ("finetune", {}))
    ]

if __name__ == "__main__":
    compute(scenarios(), RunStore(sys.argv[1]), print, int(sys.argv[2]))
"""


@pytest.fixture
def grid(tmp_path: Path) -> list[str]:
    """A command that computes six small records in two processes."""
    script = tmp_path / "grid.py"
    script.write_text(GRID, encoding="utf-8")
    return [sys.executable, str(script), str(tmp_path / "store"), "2"]


def records(folder: Path) -> dict[str, object]:
    return {path.name: json.loads(path.read_text(encoding="utf-8"))["results"] for path in folder.glob("*.json")}


def kill(process: subprocess.Popen[str]) -> None:
    """SIGKILL of the process alone: its children must notice."""
    children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGKILL)
    process.wait()
    for pipe in filter(None, (process.stdout, process.stderr)):
        pipe.close()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, f"{len(alive)} processes outlive the one that was killed"


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
def test_a_grid_of_two_processes_that_is_killed_at_random_moments_ends_as_if_it_was_not(
    grid: list[str], tmp_path: Path
) -> None:
    start = time.monotonic()
    whole = subprocess.run([*grid[:2], str(tmp_path / "whole"), "2"], check=True, capture_output=True, text=True)
    longest = time.monotonic() - start
    assert whole.stdout.count(" s\n") == 6
    start = time.monotonic()
    chance, kills, store = random.Random(0), 0, tmp_path / "store"
    while True:
        process = subprocess.Popen(grid, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            _, err = process.communicate(timeout=chance.uniform(0, longest / 2) if kills < 20 else 300)
            assert process.returncode == 0, err
            break
        except subprocess.TimeoutExpired:
            kill(process)
            kills += 1
            records(store)  # every record that is there is whole
    print(f"{kills} kills in {time.monotonic() - start:.0f} s")
    assert kills > 3
    assert records(store) == records(tmp_path / "whole")


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
def test_two_commands_on_one_store_agree(grid: list[str], tmp_path: Path) -> None:
    both = [subprocess.Popen(grid, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    assert len(records(tmp_path / "store")) == 6
    assert not [path for path in (tmp_path / "store").iterdir() if path.suffix != ".json"]


def test_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(
        "import os, time\n"
        "from unlearn_lib.reproduction.runs.processes import completed\n"
        "def start(): print(os.getpid(), flush=True)\n"
        "if __name__ == '__main__':\n"
        "    list(completed(time.sleep, [(60,)], 1, start))\n",
        encoding="utf-8",
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    kill(process)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


RUN = """
from unlearn_lib.command.cli import main
main(words, standalone_mode=False)
"""


def killed_runs(place: Path, model: Any, tokenizer: Any, texts: list[dict[str, str]], kinds: tuple[str, ...], most: int) -> int:
    """`unlearn run`, killed before its changes (at most so many of them, evenly): there is no output or a whole one, the same
    command ends, and nothing else is left."""
    save_model(model, tokenizer, place / "mödel of mine")
    (place / "forget.jsonl").write_text(write_rows(texts[:4]), encoding="utf-8")
    words = ["run", "--model", str(place / "mödel of mine"), "--forget", str(place / "forget.jsonl"), "--device", "cpu"]
    words += ["--method", "gradient-ascent", "--set", "step=0.01", "--out"]
    before = sorted(path.name for path in place.iterdir())
    with Killer() as killer:
        whole = killer.run(RUN, place, kinds=kinds, words=[*words, str(place / "öut 0")])
        assert whole.signal == 0
        numbers = sorted({round(i * (len(whole.changes) - 1) / (most - 1)) for i in range(most)})
        for number in numbers:
            where, out = f"killed before {whole.changes[number]}", place / f"öut {number + 1}"
            killed = killer.run(RUN, place, kinds=kinds, kill_at=number, words=[*words, str(out)])
            assert killed.signal == signal.SIGKILL, where
            if not (out / "report.json").exists():  # nothing, or an empty folder
                assert not out.exists() or not any(not path.name.startswith(".writing-") for path in out.iterdir()), where
                assert killer.run(RUN, place, kinds=kinds, words=[*words, str(out)]).signal == 0, where
            assert sorted(path.name for path in out.iterdir()) == ["model", "report.html", "report.json"], where
            assert json.loads((out / "report.json").read_text(encoding="utf-8"))["method"] == "gradient-ascent"
            assert {path.name for path in (out / "model").iterdir()} == {
                path.name for path in (place / "öut 0" / "model").iterdir()
            }, where
    left = [path.name for path in place.iterdir() if not path.name.startswith("öut")]
    assert sorted(name for name in left if not name.endswith(".lock")) == before
    return len(numbers)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork")
def test_a_run_killed_before_it_renames_ends_the_next_time(tmp_path: Path, tiny: Any, tokenizer: Any, texts: Any) -> None:
    assert killed_runs(tmp_path, tiny(dtype=torch.float32), tokenizer, texts, ("os.rename",), 2) == 2


@pytest.mark.nightly
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork")
def test_a_run_killed_at_fifty_changes_ends_the_next_time(tmp_path: Path, tiny: Any, tokenizer: Any, texts: Any) -> None:
    assert killed_runs(tmp_path, tiny(dtype=torch.float32), tokenizer, texts, CHANGES, 50) >= 20


STEPPING = """
from unlearn_lib.command.cli import main
from unlearn_lib.methods import resume
resume.SECONDS_BETWEEN = 0.0
main(words, standalone_mode=False)
"""


def stepping(place: Path, model: Any, tokenizer: Any, texts: list[dict[str, str]], *options: str) -> list[str]:
    """The words of a command that takes steps, without the folder to write."""
    save_model(model, tokenizer, place / "model")
    for name, part in (("forget", texts[:4]), ("retain", texts[4:16]), ("holdout", texts[16:24])):
        (place / f"{name}.jsonl").write_text(write_rows(part), encoding="utf-8")
    files = [word for name in ("forget", "retain", "holdout") for word in (f"--{name}", str(place / f"{name}.jsonl"))]
    return ["run", "--model", str(place / "model"), *files, "--device", "cpu", *options, "--out"]


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork")
def test_a_run_killed_between_its_steps_goes_on_there(tmp_path: Path, tiny: Any, tokenizer: Any, texts: Any) -> None:
    options = ["--method", "gradient-ascent", "--set", "optimizer=adam", "--set", "step=0.001", "--set", "epochs=6"]
    words = stepping(tmp_path, tiny(dtype=torch.float32), tokenizer, texts, *options)
    kinds = ("os.rename",)
    with Killer() as killer:
        whole = killer.run(STEPPING, tmp_path, kinds=kinds, words=[*words, str(tmp_path / "whole")])
        kept = [change for change in whole.changes if "whole.steps" in change]
        assert len(kept) == 5  # nothing is kept after the last step
        fourth = whole.changes.index(kept[3])
        killed = killer.run(STEPPING, tmp_path, kinds=kinds, kill_at=fourth, words=[*words, str(tmp_path / "out")])
        assert killed.signal == signal.SIGKILL
        assert [path.name for path in (tmp_path / ".out.steps").glob("*.safetensors")]
        again = killer.run(STEPPING, tmp_path, kinds=kinds, words=[*words, str(tmp_path / "out")])
        assert again.signal == 0
        assert len([change for change in again.changes if "out.steps" in change]) == 2  # the fourth and the fifth
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    assert not (tmp_path / ".out.steps").exists()


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("method", ["constrained-newton", "npo"])
def test_a_run_killed_at_twenty_random_moments_ends_with_the_same_weights(
    method: str, tmp_path: Path, tiny: Any, tokenizer: Any, texts: Any
) -> None:
    steps = ["--set", "steps=30"] if method == "constrained-newton" else ["--set", "epochs=60"]
    words = stepping(tmp_path, tiny(dtype=torch.float32), tokenizer, texts, "--method", method, *steps)

    def start(out: str) -> subprocess.Popen[str]:
        code = f"words = {[*words, str(tmp_path / out)]!r}\n{STEPPING}"
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    begun = time.monotonic()
    _, err = (process := start("whole")).communicate(timeout=300)
    assert process.returncode == 0, err
    took, chance, kills = time.monotonic() - begun, random.Random(0), 0
    while True:
        process = start("out")
        try:
            _, err = process.communicate(timeout=chance.uniform(0.3, 1.0) * took if kills < 20 else 300)
            assert process.returncode == 0, err
        except subprocess.TimeoutExpired:
            kill(process)
            kills += 1
        if (tmp_path / "out" / "report.json").exists():  # it may have been there just before the kill
            assert weights(tmp_path / "out") == weights(tmp_path / "whole")
            if kills >= 20:
                break
            shutil.rmtree(tmp_path / "out")


BOOK = """
import sys
from pathlib import Path
from unlearn_lib.reproduction.book import build, made, weeks
from unlearn_lib.reproduction.inventory import Item

if __name__ == "__main__":
    weeks.WEEKS = ()  # no course belongs to it
    # the ids are of notebooks without runs, whose records would have to be there
    build.ITEMS = made.ITEMS = {id: Item(f"{id}.ipynb", f"Notebook {id}", {"nano": 0}) for id in ("units", "ch01", "ch05")}
    print(build.build(Path(sys.argv[1]), print))
"""


@pytest.fixture
def small_book(tmp_path: Path) -> list[str]:
    """A command that builds a book of three small notebooks."""
    import nbformat

    root = tmp_path / "b\u00fcch"
    for folder in ("book", "notebooks", "results/nano"):
        (root / folder).mkdir(parents=True)
    (root / "_config.yml").write_text(
        "title: Toy\nexecute: {execute_notebooks: 'off'}\nlatex: {latex_documents: {}}\n", encoding="utf-8"
    )
    pages = "".join(f"  - file: notebooks/{name}\n" for name in ("units", "ch01", "ch05"))
    toc = f"format: jb-book\nroot: book/intro\nparts:\n- caption: A\n  chapters:\n{pages}- caption: B\n  chapters: []\n"
    (root / "book" / "_toc.yml").write_text(toc, encoding="utf-8")
    (root / "book" / "intro.md").write_text("# Toy\n", encoding="utf-8")
    for name in ("units", "ch01", "ch05"):
        first = nbformat.v4.new_code_cell("seed: int = 0  # a seed", metadata={"tags": ["parameters"]})
        second = nbformat.v4.new_code_cell("import time\ntime.sleep(1)\nprint('seed', seed)")
        second.outputs = [nbformat.v4.new_output("stream", name="stdout", text="seed 0\n")]
        node = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# {name}"), first, second])
        node.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
        nbformat.write(node, root / "notebooks" / f"{name}.ipynb")
    (tmp_path / "book.py").write_text(BOOK, encoding="utf-8")
    return [sys.executable, str(tmp_path / "book.py"), str(root)]


def html(root: Path) -> dict[str, str]:
    """The text of every page, without what differs from run to run."""
    folder = root / "build" / "_build" / "html"
    # the checksum of a stylesheet that the book's tools write while they build stands in its address in later builds only
    return {
        str(page.relative_to(folder)): re.sub(r"\?v=[0-9a-f]+", "", page.read_text(encoding="utf-8"))
        for page in sorted(folder.rglob("*.html"))
    }


@pytest.mark.nightly
@pytest.mark.filterwarnings("default")
def test_a_book_that_is_killed_at_random_moments_is_built_by_the_same_command(small_book: list[str]) -> None:
    root, environment = Path(small_book[2]), {**os.environ, "OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    whole = subprocess.run(small_book, capture_output=True, text=True, check=False, env=environment)
    longest = time.monotonic() - start
    assert whole.returncode == 0, whole.stderr
    expected, sources = html(root), {path: path.read_bytes() for path in (root / "notebooks").iterdir()}
    assert len(expected) >= 7
    chance = random.Random(1)
    for number in range(50):
        if number % 10 == 0:
            shutil.rmtree(root / "build", ignore_errors=True)  # from the beginning: notebooks are executed, too
        process = subprocess.Popen(small_book, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            process.communicate(timeout=chance.uniform(0, longest))
        except subprocess.TimeoutExpired:
            kill(process)
        for path in (root / "build" / "executed").glob("*.ipynb"):
            assert json.loads(path.read_text(encoding="utf-8"))["metadata"]["unlearn_lib"]["fingerprint"]
    again = subprocess.run(small_book, capture_output=True, text=True, check=False, env=environment)
    assert again.returncode == 0, again.stderr
    assert html(root) == expected
    assert {path: path.read_bytes() for path in (root / "notebooks").iterdir()} == sources
    left = [path for path in root.rglob("*") if path.name.startswith(".writing-") and "executed" not in path.parts]
    assert not left


@pytest.mark.filterwarnings("default")
def test_a_checkout_that_cannot_be_written_is_said_before_anything_is_executed(tmp_path: Path) -> None:
    from unlearn_lib.errors import InputError
    from unlearn_lib.files import only_writer
    from unlearn_lib.reproduction.book.build import build
    from unlearn_lib.reproduction.book.notebooks import execute

    (tmp_path / "build").write_text("a file in the place of the folder", encoding="utf-8")
    said: list[str] = []
    with pytest.raises(OSError, match="exists"):
        build(tmp_path, said.append)
    notebook = tmp_path / "a.ipynb"
    notebook.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', encoding="utf-8")
    with pytest.raises(OSError, match="exists"):
        execute(notebook, tmp_path / "build" / "a.ipynb", {}, tmp_path)
    assert not said
    (tmp_path / "build").unlink()
    (tmp_path / "build").mkdir()
    with (
        only_writer(tmp_path / "build" / ".book.lock", "the book"),
        pytest.raises(InputError, match="another process is writing"),
    ):
        build(tmp_path, said.append)
    assert not said
