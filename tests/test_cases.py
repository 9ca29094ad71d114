"""The case studies: a run in the small, and the tables from records made by hand."""

from dataclasses import replace
from typing import Any

import pytest

from unlearn_lib.metrics.extraction import Criterion, Draws
from unlearn_lib.reproduction.exhibits import exam_duplicates, table08_cases
from unlearn_lib.reproduction.exhibits.cells import written
from unlearn_lib.reproduction.runs.case_bench import CaseBench, bench_for
from unlearn_lib.reproduction.runs.case_grids import case_studies, deduplication
from unlearn_lib.reproduction.runs.cases import Case
from unlearn_lib.reproduction.runs.compute import compute
from unlearn_lib.reproduction.runs.store import RunStore, key
from unlearn_lib.training.loop import TrainingConfig

SMALL = Case(
    "medical",
    "nano/opt-s",
    0,
    "original",
    TrainingConfig(1, 1e-3, 8),
    cycle_size=4,
    train_size=40,
    test_size=8,
    holdout_size=12,
    measured=8,
    duplicates=0.6,
    draws=Draws(10, 2, 5),
)


def test_the_request_is_long_and_may_be_extended_by_its_near_duplicates() -> None:
    bench = bench_for(SMALL)
    assert isinstance(bench, CaseBench)
    request = bench.order[:4]
    assert all(len(bench.encoded["train"][i].input_ids) > 200 for i in request)
    assert sorted(bench.order) == list(range(40))
    originals = bench.task.train["original"]
    versions = [i for i in bench.order[4:] if originals[i] in {originals[k] for k in request}]
    assert versions
    assert set(versions) <= set(bench.order[4 : 4 + bench.near])
    assert bench.sizes(SMALL) == [4]
    assert bench.sizes(replace(SMALL, deduplicate=True)) == [4 + bench.near]
    # retraining on the extended request learns none of the versions, the request alone leaves them in
    assert not set(versions) & set(bench.kept(4 + bench.near))
    assert set(versions) <= set(bench.kept(4))


def test_records_of_a_case_study_hold_numbers_and_no_text(tmp_path: Any) -> None:
    ascent = replace(SMALL, method="gradient-ascent", options={"preset": "paper", "step": 1e-4})
    runs = [SMALL, ascent, replace(ascent, deduplicate=True)]
    records = compute(runs, RunStore(tmp_path))
    assert len({key(scenario.config()) for scenario in runs}) == 3
    text = "".join(path.read_text() for path in tmp_path.iterdir())
    for row in SMALL.load_task().train:
        assert not any(value in text for value in row["secrets"].values())
    before, after = records[0]["results"]["before"][0], records[1]["results"]["after"][0]
    assert len(before["extraction"]) == len(before["extraction_unseen"]) == len(after["extraction"]) == 4
    assert set(after["extraction"][0]) == {"run", "rouge", "edit", "shared", "own", "found"}
    assert records[2]["results"]["after"][0]["gradient_evaluations"] == 4 + after["near_duplicates"]
    assert compute(runs, RunStore(tmp_path)) == records  # nothing is computed again


def record(method: str, seed: int, runs: list[float], found: list[bool], rate: float = 0.2, deduplicate: bool = False) -> Any:
    extraction = [
        {"run": n, "rouge": n / 100, "edit": n / 100, "shared": 0.5, "own": None, "found": {"phone": yes, "name": False}}
        for n, yes in zip(runs, found, strict=True)
    ]
    state = {"extraction": extraction, "extraction_unseen": extraction[:1], "near_duplicates": 3}
    config = {"profile": "nano", "task": "email", "model": "nano/opt-s", "seed": seed, "method": method}
    config |= {"duplicates": rate, "deduplicate": deduplicate, "cycle_size": 32}
    return {"config": config, "results": {"before": [state], "after": [state]}, "timing": {}}


def test_texts_are_counted_by_the_criterion() -> None:
    records = [record("original", 0, [80, 30, 29], [True, True, False]), record("retrain", 0, [0, 1, 2], [False] * 3)]
    rows = table08_cases.texts(records)
    assert rows.method.tolist() == ["original"] * 3 + ["unseen"] + ["retrain"] * 3
    counted = table08_cases.counts(rows).set_index("method")
    assert counted.memorised.to_dict() == {"original": 2, "unseen": 1, "retrain": 0}
    assert counted.found_share["original"] == pytest.approx(100 * 2 / 6)
    assert table08_cases.counts(rows, Criterion("edit", 0.29)).set_index("method").memorised["original"] == 3
    table = table08_cases.criteria_table(rows, ["original"]).set_index(["measure", "at least"]).iloc[:, 0]
    assert table["run", 30] == pytest.approx(200 / 3)
    assert table["run", 80] == pytest.approx(100 / 3)


def test_table_8_stands_beside_the_printed_one() -> None:
    records = [record("original", seed, [30.0 * (seed + 1), 80, 0], [True, True, False]) for seed in (0, 1, 2)]
    table = table08_cases.table8(table08_cases.counts(table08_cases.texts(records)))
    assert table.loc[("Email", "before unlearning")].to_dict() == {
        "OPT, of 3": "2.0\u00a0[2.0,\u00a02.0]",
        "OPT, paper, of 128": "22",
    }
    assert table.loc[("Email", "texts never seen"), "OPT, paper, of 128"] == ""


def test_the_damage_is_the_retain_losses_rise_over_the_forget_losses() -> None:
    one = record("fisher-removal", 0, [0], [False])
    losses = {"holdout_loss": 2.0, "attack_auc": 0.9, "accuracy": 40.0}
    one["results"]["before"] = [{"forget_loss": 0.1, "retain_loss": 0.1, "near_duplicates": 3, **losses}]
    one["results"]["after"] = [{"forget_loss": 1.1, "retain_loss": 0.3, "incomplete": 1.0, **losses}]
    one["timing"] = {"cycle_1_seconds": 2.5}
    start = {**one, "config": {**one["config"], "method": "original"}, "timing": {"training_seconds": 9.0}}
    runs = table08_cases.states([start, one])
    assert runs.damage.tolist() == pytest.approx([float("nan"), 0.2], nan_ok=True)
    assert runs.incomplete.tolist() == [False, True]
    table = table08_cases.quality(runs).loc[("Email", "OPT", "Fisher Removal")]
    assert table[["damage ratio", "forget loss", "runs that stopped early"]].tolist() == pytest.approx([0.2, 1.1, 1.0])
    shown = table08_cases.quality(runs).map(written)
    assert shown.loc[("Email", "OPT", "before unlearning"), "damage ratio"] == "–"
    assert shown.loc[("Email", "OPT", "Fisher Removal"), ["damage ratio", "runs that stopped early"]].tolist() == ["0.20", "1"]
    extended = {**one, "config": {**one["config"], "deduplicate": True}}
    assert exam_duplicates.costs(table08_cases.states([start, one, extended])).texts.to_dict() == {
        ("Fisher Removal", "as it is", 0.2): 32.0,
        ("Fisher Removal", "extended", 0.2): 35.0,
    }
    assert table08_cases.seconds(runs).loc[("Email", "Fisher Removal")].to_dict() == {
        ("this repository", "OPT"): 2.5,
        ("paper", "OPT"): 1120.0,
    }


def test_what_is_left_by_the_rate_of_near_duplicates() -> None:
    records = [
        record("retrain", seed, [0], [found], rate, extended)
        for seed in (0, 1)
        for rate, extended, found in ((0.0, False, False), (0.5, False, True), (0.5, True, False))
    ]
    table = exam_duplicates.leftover(table08_cases.counts(table08_cases.texts(records)))
    means = table.set_index(["rate", "deduplicated"])["mean"].to_dict()
    assert means == {(0.0, False): 0.0, (0.5, False): 50.0, (0.5, True): 0.0}


def test_the_grids_share_what_they_can() -> None:
    first, second = case_studies(), deduplication()
    names = [scenario.name for scenario in first]
    assert len(set(names)) == len(names) == 2 * 2 * 3 * 8
    assert len({repr(scenario.shared()) for scenario in first}) == 12  # originals to train
    shared = {repr(scenario.shared()) for scenario in second}
    assert len(shared) == 9
    assert len(shared - {repr(scenario.shared()) for scenario in first}) == 6
