"""Records one at a time, by the commands that the workflow calls, and the workflow itself. All at toy size."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_computing
from click.testing import CliRunner
from test_pretraining import quiet

from unlearn_lib.checkpoints import Deadline
from unlearn_lib.command.cli import main
from unlearn_lib.reproduction.runs import finished, grids, profiles, single
from unlearn_lib.reproduction.runs.campaign import Campaign
from unlearn_lib.reproduction.runs.store import RunStore

CHECKOUT = Path(__file__).parents[1]
SNAKEMAKE = shutil.which("snakemake")

root = test_computing.root


@pytest.fixture
def toy_checkout(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy profile has the texts and models of one figure alone."""
    monkeypatch.setattr(single, "GRIDS", ("fig04",))
    return root


def call(*words: str, profile: str = "toy") -> tuple[int, str]:
    result = CliRunner().invoke(main, ["records", *words, "--profile", profile])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def listed() -> Any:
    code, out = call("missing", "fig04")
    assert code == 0, out
    return json.loads(out)


def times(folder: Path, pattern: str) -> dict[str, int]:
    """When the files of a folder were written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(pattern)}


def test_records_one_at_a_time_are_those_of_one_call(toy_checkout: Path) -> None:
    toys = profiles.find("toy")
    assert listed() == {"models": ["toy/neo-s"], "records": []}  # the names of records depend on the model
    assert call("models", "fig04")[0] == 0
    store, wanted, found = RunStore(toy_checkout / "results/toy"), grids.weights(toys), listed()
    assert found["models"] == []
    assert [toy_checkout / row["file"] for row in found["records"]] == [store.path(run.name, run.config()) for run in wanted]

    # one original for all, and the others after the record that trains what they are compared with
    (original,) = {row["original"] for row in found["records"]}
    (first,) = [row for row in found["records"] if row["after"] is None]
    assert {row["after"] for row in found["records"]} == {None, first["file"]}
    assert "-original-" in first["file"]

    marker = toy_checkout / first["marker"]
    assert call("original", original)[1].startswith(f"{original}: trained in ")
    assert sorted(times(marker.parent, "*")) == ["original.done", "original.safetensors"]
    trained = times(marker.parent, "*.safetensors")
    assert call("original", original)[1] == f"{original}: trained already\n"
    marker.unlink()
    assert call("original", original)[0] == 0
    assert marker.exists()
    assert times(marker.parent, "*.safetensors") == trained

    assert call("run", first["file"])[0] == 0
    trained = trained | times(marker.parent, "retrained-2.safetensors")
    assert len(trained) == 2
    for row in found["records"]:
        assert call("run", row["file"])[0] == 0
    assert times(marker.parent, "*.safetensors") == trained  # every model once
    assert listed() == {"models": [], "records": []}
    assert not finished.missing(wanted, store)

    # what is there is not touched
    written = times(store.folder, "*.json")
    assert call("run", first["file"])[1].endswith(": computed already\n")
    assert times(store.folder, "*.json") == written
    record = json.loads((toy_checkout / first["file"]).read_text())
    assert set(record["provenance"]) >= {"commit", "threads"}

    # all in one call gives the same
    singly = test_computing.results(toy_checkout)
    shutil.rmtree(marker.parent)
    for name in written:
        (store.folder / name).unlink()
    Campaign(toys, wanted, toy_checkout).run(Deadline(), 1, quiet)
    assert test_computing.results(toy_checkout) == singly


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("original", "arc_easy-000000000000"), "has the original model arc_easy-000000000000;"),
        (("original", "nothing"), "has the original model nothing;"),
        (
            ("run", "results/nano/arc_easy-neo-s-retrain-2x32-seed0-000000000000.json"),
            "has the record results/nano/arc_easy-neo",
        ),
        (("run", "results/gpu/x.json"), "has the record results/gpu/x.json;"),
        (("missing",), "name tables and figures, or use --all; ids: "),
        (("missing", "table99"), "table99"),
        (("models", "table99"), "table99"),
    ],
)
def test_a_wrong_name_is_one_sentence(words: tuple[str, ...], message: str) -> None:
    code, out = call(*words, profile="nano")
    assert code == 2
    assert message in out
    assert out.startswith("unlearn: ")
    assert out.count("\n") == 1


def test_a_profile_that_needs_a_gpu_says_so(toy_checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call("models", "fig04")[0] == 0
    row = listed()["records"][0]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setitem(profiles.PROFILES, "toy", replace(profiles.find("toy"), device="cuda"))
    for words in (("original", row["original"]), ("run", row["file"])):
        code, out = call(*words)
        assert code == 2
        assert "the profile toy computes on a GPU" in out


STAND_IN = """#!{python}
import json, sys
from pathlib import Path as path
with open("calls", "a") as calls:
    print(*sys.argv[2:], file=calls)
what = sys.argv[2]
rows = [("a1", "a", None), ("a2", "a", "a1"), ("b1", "b", None)]
if what == "missing":
    print(json.dumps({{"models": [], "records": [
        {{"file": f"results/nano/{{name}}.json", "original": of, "marker": f"build/trained/nano/{{of}}/original.done",
          "after": after and f"results/nano/{{after}}.json"}}
        for name, of, after in rows if not path(f"results/nano/{{name}}.json").exists()]}}))
elif what == "original":
    folder = path("build/trained/nano") / sys.argv[3]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "original.done").touch()
elif path("broken").exists() and "b1" in sys.argv[3]:
    sys.exit(3)
else:
    path(sys.argv[3]).write_text("{{}}")
"""


def snakemake(folder: Path, binaries: Path, *words: str) -> tuple[int, str]:
    assert SNAKEMAKE is not None
    command = [SNAKEMAKE, "--snakefile", CHECKOUT / "workflow/Snakefile", "--cores", "2", "--keep-going", *words]
    environment = os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}", "PYTHONPATH": str(CHECKOUT)}
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    return ran.returncode, ran.stdout + ran.stderr


@pytest.mark.skipif(SNAKEMAKE is None, reason="needs snakemake on the PATH, from an environment of its own")
def test_the_workflow_waits_resumes_and_clears(tmp_path: Path) -> None:
    """The real engine with a stand-in for `unlearn` that writes down how it is called."""
    binaries, folder = tmp_path / "bin", tmp_path / "checkout"
    binaries.mkdir()
    (folder / "results/nano").mkdir(parents=True)
    (binaries / "unlearn").write_text(STAND_IN.format(python=sys.executable))
    (binaries / "unlearn").chmod(0o755)
    (folder / "broken").touch()
    code, out = snakemake(folder, binaries)
    assert code == 1, out
    calls = (folder / "calls").read_text().splitlines()
    assert calls[0] == "missing --all --profile nano"
    done = {line.split()[1]: number for number, line in enumerate(calls[1:])}
    assert set(done) == {"a", "b", *(f"results/nano/{name}.json" for name in ("a1", "a2", "b1"))}
    assert done["a"] < done["results/nano/a1.json"] < done["results/nano/a2.json"]
    assert [path.name for path in (folder / "build/trained/nano").iterdir()] == ["b"]  # what is left to do keeps its models

    (folder / "broken").unlink()
    (folder / "build/workflow/nano/b.cleared").touch()  # left by a run that was interrupted
    (folder / "calls").unlink()
    written = times(folder / "results/nano", "*.json")
    code, out = snakemake(folder, binaries)
    assert code == 0, out
    assert (folder / "calls").read_text().splitlines()[1:] == ["run results/nano/b1.json --profile nano"]
    assert not list((folder / "build/trained/nano").iterdir())
    assert times(folder / "results/nano", "a*.json") == written

    (folder / "calls").unlink()
    code, out = snakemake(folder, binaries)
    assert code == 0, out
    assert len((folder / "calls").read_text().splitlines()) == 1
    assert times(folder / "results/nano", "a*.json") == written


@pytest.mark.skipif(SNAKEMAKE is None, reason="needs snakemake on the PATH, from an environment of its own")
def test_the_workflow_lists_what_is_missing_here(tmp_path: Path) -> None:
    """A dry run with the real `unlearn`, in a checkout that lacks a record."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "_config.yml").touch()
    shutil.copytree(CHECKOUT / "results/nano", tmp_path / "results/nano")
    lost = next((tmp_path / "results/nano").glob("arc_easy-neo-s-fisher-removal-weights-1x32-seed1-*.json"))
    lost.unlink()
    code, out = snakemake(tmp_path, Path(sys.executable).parent, "--dry-run", "--config", "ids=fig04")
    assert code == 0, out
    assert f"output: results/nano/{lost.name}" in out
    assert out.count("rule record:") == out.count("rule original:") == 1
