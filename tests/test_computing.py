"""One command computes a profile in pieces: models, records, notebooks. All at toy size."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import pytest
from click.testing import CliRunner
from test_pretraining import StopsAfter, quiet, toy

from unlearn_lib import checkpoints
from unlearn_lib.command.cli import main
from unlearn_lib.models import load as models
from unlearn_lib.reproduction import checkout
from unlearn_lib.reproduction.runs import grids, profile, profiles
from unlearn_lib.reproduction.runs.campaign import Campaign
from unlearn_lib.reproduction.runs.finished import load, missing
from unlearn_lib.reproduction.runs.store import RunStore

COMMAND = ["reproduce", "fig04", "--runs", "--profile", "toy", "--minutes", "9"]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with one notebook, and a profile of its own: one model, two samples to remove in a cycle."""
    recipe = replace(toy(tmp_path / "models"), context=256, specs={"toy/neo-s": toy(tmp_path).specs["toy/neo-s"]})
    chosen = replace(
        profiles.GPU,
        name="toy",
        models={"neo-s": "toy/neo-s"},
        sizes={"arc_easy": ("s",)},
        seeds={"s": (0,)},
        train_sizes={"arc_easy": 24},
        test_size=2,
        holdout_size=8,
        reference_size=4,
        measured=4,
        cycle_size=2,
        learning_rate={"s": 1e-3},
        device="cpu",
        recipe=recipe,
    )
    monkeypatch.setitem(models.RECIPES, "toy", recipe)
    monkeypatch.setitem(profiles.PROFILES, "toy", chosen)
    for module in (checkout, profile):
        monkeypatch.setattr(module, "project_root", lambda: tmp_path)
    parameters = nbformat.v4.new_code_cell('profile: str = "nano"  # which models', metadata={"tags": ["parameters"]})
    node = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell("print(profile)")])
    node.metadata["kernelspec"] = {"name": "python3", "display_name": "x", "language": "python"}
    (tmp_path / "notebooks").mkdir()
    nbformat.write(node, tmp_path / "notebooks" / "fig04_weights.ipynb")
    return tmp_path


def command(monkeypatch: pytest.MonkeyPatch, stop_after: int) -> tuple[int, str]:
    """The command with a deadline that passes once it was asked so often."""
    real = checkpoints.Deadline
    monkeypatch.setattr(checkpoints, "Deadline", lambda minutes=None: StopsAfter(stop_after) if minutes else real())
    result = CliRunner().invoke(main, COMMAND)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def results(root: Path) -> list[Any]:
    wanted = grids.weights(profiles.find("toy"))
    return [record["results"] for record in load(wanted, RunStore(root / "results" / "toy"))]


@pytest.mark.filterwarnings("default")
def test_a_profile_is_computed_in_pieces(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = len(grids.weights(profiles.find("toy")))
    code, out = command(monkeypatch, 3)  # in pre-training
    assert code == 75
    assert f"not finished: 1 models, {wanted} records and 1 notebooks are left; the same command continues" in out
    code, out = command(monkeypatch, 12)  # pre-training is done; in fine-tuning
    assert code == 75
    assert f"not finished: 0 models, {wanted} records and 1 notebooks are left" in out
    assert [path.stem for path in (root / "build/trained/toy").rglob("*.safetensors")] == ["original"]
    code, out = command(monkeypatch, 31)  # in some method
    assert code == 75
    store, toys = RunStore(root / "results/toy"), profiles.find("toy")
    left = len(missing(grids.weights(toys), store))
    assert 0 < left < wanted
    assert f"not finished: 0 models, {left} records and 1 notebooks are left" in out
    code, out = command(monkeypatch, 10_000)
    assert code == 0, out
    assert "executed: " in out
    assert "toy" in (root / "build/executed-toy/fig04_weights.ipynb").read_text()
    assert not list((root / "build/trained/toy").iterdir())

    # the records are those of an uninterrupted computation, and are found where the model is not
    pieces = results(root)
    config = grids.weights(toys)[0].config()
    assert config["profile"] == "toy"
    assert set(config["model_sha256"]) >= {"neo-s/model.safetensors", "tokenizer/tokenizer.json"}
    for path in store.folder.glob("*.json"):
        path.unlink()
    Campaign(toys, grids.weights(toys), root).run(StopsAfter(10_000), 1, quiet)
    assert results(root) == pieces
    (root / "models/manifest.json").unlink()
    assert results(root) == pieces
    assert json.loads((root / "results/toy/models/manifest.json").read_text())["models"]["toy/neo-s"]["steps"] == 6


def test_a_profile_that_needs_a_gpu_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setitem(profiles.PROFILES, "toy", replace(profiles.find("toy"), device="cuda"))
    result = CliRunner().invoke(main, COMMAND)
    assert result.exit_code == 2
    assert "the profile toy computes on a GPU, and torch sees no CUDA device here" in result.output
    assert not (root / "models").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--profile", "cloud"], "unknown profile 'cloud'; choose one of: nano, gpu"),
        (["--runs", "--minutes", "9", "--processes", "2"], "--minutes stops one process"),
        (["--profile", "gpu", "--store-outputs"], "the outputs that are committed are those of the profile nano"),
    ],
)
def test_options_that_do_not_go_together(words: list[str], message: str) -> None:
    result = CliRunner().invoke(main, ["reproduce", "table04", *words])
    assert result.exit_code == 2
    assert message in result.output
