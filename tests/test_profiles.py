"""What the profiles promise: the paper's numbers in `gpu`, and errors that name the command."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from unlearn_lib import load_model
from unlearn_lib.errors import InputError
from unlearn_lib.models import gpu
from unlearn_lib.models import load as models
from unlearn_lib.reproduction.book.session import Session
from unlearn_lib.reproduction.exhibits import settings_table
from unlearn_lib.reproduction.runs import grids, options, profile, profiles
from unlearn_lib.reproduction.runs.labels import ORIGINAL
from unlearn_lib.reproduction.runs.profile import Profile
from unlearn_lib.reproduction.runs.profiles import GPU, NANO


@pytest.fixture
def untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """The gpu profile on a machine without its models and records."""
    recipe = replace(gpu.RECIPE, folder=tmp_path / "models")
    chosen = replace(GPU, recipe=recipe)
    monkeypatch.setitem(models.RECIPES, "gpu", recipe)
    monkeypatch.setitem(profiles.PROFILES, "gpu", chosen)
    monkeypatch.setattr(profile, "project_root", lambda: tmp_path)
    return chosen


def test_gpu_has_the_papers_numbers() -> None:
    used = options.options("s", GPU)
    assert used["gradient-ascent"]["step"] == 5e-5
    assert used["fisher-removal"]["step"] == 2.5e-4
    assert {used[method]["learning_rate"] for method in ("retrain", "finetune")} == {5e-5}
    terms = {}
    for task in grids.TASKS:
        runs = grids.utility(task, profile=GPU)
        assert {(run.cycle_size, run.cycles, run.reference_size, run.profile) for run in runs} == {(128, 2, 1000, "gpu")}
        assert {run.seed for run in runs if run.model == "gpu/opt-l"} == {0}
        assert len({run.model for run in runs}) == 6
        terms[task] = min(1024, math.ceil((runs[0].train_size - 2 * 128) / 8))
    assert terms == {"arc_easy": 250, "piqa": 1024, "mathqa": 1024, "lambada": 577}


def test_profiles_differ_in_their_values_only() -> None:
    for identifier in grids.GRIDS:
        nano, wide = grids.grid(identifier), grids.grid(identifier, GPU)
        assert {(run.method, run.detail, run.activation, run.cycles) for run in nano} == {
            (run.method, run.detail, run.activation, run.cycles) for run in wide
        }
    assert settings_table.table(GPU).what.tolist() == settings_table.table(NANO).what.tolist()
    assert {run.method for run in grids.originals(GPU)} == {ORIGINAL}


def test_the_files_of_a_model_are_part_of_the_configuration() -> None:
    files = NANO.model_files("nano/opt-s")
    assert set(files) >= {"opt-s/model.safetensors", "tokenizer/tokenizer.json"}
    assert not [path for path in files if path.startswith(("neo", "opt-m", "opt-l"))]


def test_a_model_of_another_profile() -> None:
    with pytest.raises(InputError, match="unknown model of the profile gpu 'nano/opt-s'; choose one of: gpu/neo-s"):
        grids.scenario("piqa", "nano/opt-s", 0, ORIGINAL, profile=GPU)


def test_what_is_not_there_names_its_command(untrained: Profile, tmp_path: Path) -> None:
    session = Session(tmp_path, untrained, "cpu", recompute=False)
    with pytest.raises(
        InputError, match=r"no records of gpu/neo-s.*`unlearn reproduce --all --runs --profile gpu --minutes 9`"
    ):
        session.records(grids.onion(session.profile))
    with pytest.raises(
        InputError, match=r"gpu/opt-m was not trained yet.*`python -m unlearn_lib\.models\.pretraining gpu/opt-m --minutes 9`"
    ):
        load_model("gpu/opt-m", device="cpu")
    with pytest.raises(InputError, match="unknown model of the gpu profile 'gpu/opt-xl'; choose one of: gpu/neo-s"):
        load_model("gpu/opt-xl", device="cpu")
