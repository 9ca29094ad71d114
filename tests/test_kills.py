"""kill -9 at random moments, two processes on one folder, hostile texts: nothing is lost or half-written, and the same command ends."""

import json
import os
import random
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
from unlearn_lib.reproduction import profiles
from unlearn_lib.reproduction.runs import run
from unlearn_lib.reproduction.scenarios import Scenario
from unlearn_lib.reproduction.store import RunStore
from unlearn_lib.training import TrainingConfig

def scenarios():
    sizes = dict(cycle_size=2, train_size=12, test_size=2, holdout_size=4, reference_size=4, measured=4)
    training = TrainingConfig(epochs=1)
    return [
        Scenario(task="arc_easy", model="nano/opt-s", method=method, seed=seed, training=training, options=options, **sizes)
        for seed in range(3)
        for method, options in (("gradient-ascent", {"step": 0.01}), ("finetune", {}))
    ]

if __name__ == "__main__":
    run(scenarios(), RunStore(sys.argv[1]), print, int(sys.argv[2]))
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
    whole = subprocess.run([*grid[:2], str(tmp_path / "whole"), "2"], check=True, capture_output=True, text=True)
    assert whole.stdout.count(" s\n") == 6
    start = time.monotonic()
    chance, kills, store = random.Random(0), 0, tmp_path / "store"
    while True:
        process = subprocess.Popen(grid, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            _, err = process.communicate(timeout=chance.uniform(0, 25) if kills < 50 else 300)
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
