"""The paper's models and data sets, as small stand-ins in the hub's own formats: every path of the profile, in the small."""

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub_stand_ins import cache_model, cache_set

from unlearn_lib.checkpoints import Deadline
from unlearn_lib.data.hub_sets import HUB_SETS, REFERENCE
from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.data.tasks import NANO_RECORDS, load_task
from unlearn_lib.errors import InputError
from unlearn_lib.models import nano
from unlearn_lib.reproduction.exhibits import frames, table08_cases, utility
from unlearn_lib.reproduction.runs import case_grids, grids, profile, profiles
from unlearn_lib.reproduction.runs.campaign import Campaign
from unlearn_lib.reproduction.runs.profile import Profile
from unlearn_lib.reproduction.runs.profiles import PAPER
from unlearn_lib.reproduction.runs.record import Record
from unlearn_lib.reproduction.runs.scenarios import Scenario
from unlearn_lib.training.loop import TrainingConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*rows, not .* as in the paper")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Profile:
    """The profile with its numbers cut down, on a machine whose cache holds stand-ins of everything it takes from the hub."""
    from huggingface_hub import constants

    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    for seed, (label, name) in enumerate(PAPER.models.items()):
        family, size = label.split("-")
        spec = nano.ModelSpec(family, {"s": 16, "m": 24, "l": 32}[size], 2, 2, 0.0, 0, "")
        cache_model(cache, name, spec, seed=10 * seed, pickle_only=family == "opt")
    for task, hub_set in HUB_SETS.items():
        splits = {split for split, _ in hub_set.splits.values()}
        rows = {split: [NANO_RECORDS[task](Draw(task, split, i), reserved=False) for i in range(30)] for split in splits}
        cache_set(cache, hub_set, rows)
    cache_set(cache, REFERENCE, [{"text": ["1. The applicant was born.", 30 * f"{i}. He complained. "]} for i in range(6)])
    chosen = replace(
        PAPER,
        seeds={"s": (0,), "m": (0,), "l": (0,)},
        train_sizes=dict.fromkeys(PAPER.train_sizes, 24),
        test_size=4,
        holdout_size=8,
        reference_size=4,
        measured=4,
        cycle_size=2,
        learning_rate=dict.fromkeys("sml", 1e-3),
        passes={"m": 4, "l": 3},
        cases=replace(PAPER.cases, train_size=24, holdout_size=8, measured=4, training=TrainingConfig(1, 1e-3, 8)),
        device="cpu",
    )
    monkeypatch.setitem(profiles.PROFILES, "paper", chosen)
    monkeypatch.setattr(profile, "project_root", lambda: tmp_path)
    return chosen


def computed(chosen: Profile, wanted: Sequence[Scenario], root: Path) -> list[Record]:
    computation = Campaign(chosen, wanted, root)
    computation.run(Deadline(), 1, lambda line: None)
    assert computation.left() == (0, 0)
    return [record for run in wanted if (record := computation.store.get(run.name, run.config())) is not None]


def test_a_table_of_the_paper(small: Profile, tmp_path: Path) -> None:
    wanted = [run for run in grids.utility("piqa", ("l",), profile=small) if run.method != "finetune"]
    removal = next(run for run in wanted if run.method == "fisher-removal" and run.model == "facebook/opt-2.7b")
    assert removal.options == {"preset": "paper", "step": 2.5e-4, "passes": 3}
    assert PAPER.passes["l"] == 20
    records = computed(small, wanted, tmp_path)
    assert len(records) == 2 * 7
    rows = frames.tidy(records)
    assert set(rows.family) == {"neo", "opt"}
    assert set(rows["size"]) == {"l"}
    shown = utility.layout(utility.beside_reported(rows[rows.method != "original"]))
    assert len(shown) > 0

    # the records say which commits they are of, and are read where the models are not
    config = records[0]["config"]
    assert config["model_sha256"] == {"config": f"{20:040d}", "weights": f"{20:040d}"}  # of GPT-Neo, the third of the models
    manifest = json.loads((tmp_path / "results" / "paper" / "models" / "manifest.json").read_text())
    assert manifest["models"]["facebook/opt-2.7b"] == {"config": f"{50:040d}", "weights": f"{51:040d}"}
    (tmp_path / "cache" / "models--facebook--opt-2.7b").rename(tmp_path / "gone")
    assert Campaign(small, wanted, tmp_path).left() == (0, 0)


@pytest.mark.parametrize("task", ["arc_easy", "mathqa", "lambada"])
def test_the_other_data_sets(task: str, small: Profile, tmp_path: Path) -> None:
    wanted = [run for run in grids.utility(task, ("m",), profile=small) if run.method in ("original", "fisher-forgetting")]
    records = computed(small, wanted, tmp_path)
    assert len(records) == 2 * 2
    assert records[0]["config"]["profile"] == "paper"
    assert records[1]["results"]["after"][0]["gradient_evaluations"] == pytest.approx(4 * 22)  # a pass for each part of D+


def test_the_case_studies(small: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [run for run in case_grids.case_studies(small) if run.task == "medical" and run.method in ("original", "retrain")]
    with pytest.raises(
        InputError, match="put it into a folder medical/ and set UNLEARN_LIB_PRIVATE_SETS to the folder around it"
    ):
        wanted[0].config()
    folder = tmp_path / "own" / "medical"
    folder.mkdir(parents=True)
    texts = [row["text"] for row in load_task("medical", sizes={"train": 60, "test": 1, "holdout": 1, "reference": 0}).train]
    with (folder / "mtsamples.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["transcription"], *([text] for text in texts)])
    monkeypatch.setenv("UNLEARN_LIB_PRIVATE_SETS", str(tmp_path / "own"))
    records = computed(small, wanted, tmp_path)
    rows = table08_cases.texts(records)
    counted = table08_cases.counts(rows)
    assert set(counted.asked) == {2}
    shown: Any = table08_cases.table8(counted)
    assert shown.loc[("Medical", "Retraining")].iloc[0].startswith("0.0")
    # what is personal in a user's own download is not known
    assert set(table08_cases.personal(counted).stack()) == {""}
    assert len(table08_cases.kinds(records)) == 0
