import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn_lib.errors import InputError
from unlearn_lib.reproduction.runs import bench, scenarios
from unlearn_lib.reproduction.runs.compute import compute
from unlearn_lib.reproduction.runs.finished import load
from unlearn_lib.reproduction.runs.scenarios import Scenario
from unlearn_lib.reproduction.runs.store import RunStore, key
from unlearn_lib.training.loop import TrainingConfig

CONFIG: dict[str, Any] = {
    "benchmark": "methods", "numerics": 1, "task": "arc_easy", "train": 8, "forget": 2, "family": "opt", "seed": 0,
    "training": {"epochs": 1, "learning_rate": 1e-3, "batch_size": 8, "weight_decay": 0.0, "clip_norm": 1.0, "betas": [0.9, 0.999]},
    "method": "x", "options": {"step": 1.0},
}  # fmt: skip
RESULTS = {"peak_memory_bytes": 15}


def test_a_record_is_found_by_its_whole_configuration(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.put("run", CONFIG, RESULTS, {"seconds": 2.0})
    record = store.get("run", dict(reversed(CONFIG.items())))
    assert record is not None
    assert record["results"] == RESULTS
    assert set(record["provenance"]) >= {"commit", "torch", "processor", "threads"}
    for changed in ({"task": "piqa"}, {"options": {"step": 1.1}}, {"given": 0}):
        assert store.get("run", CONFIG | changed) is None
    assert key(CONFIG) != key(CONFIG | {"task": "piqa"})


def test_a_damaged_or_edited_record_is_refused(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.put("run", CONFIG, RESULTS, {})
    path = store.path("run", CONFIG)
    path.write_text(json.dumps({"config": CONFIG | {"task": "other"}}))
    with pytest.raises(InputError, match="does not hold the configuration"):
        store.get("run", CONFIG)
    path.write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        store.get("run", CONFIG)


def test_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = RunStore(tmp_path)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.put("run", CONFIG, RESULTS, {})
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_not_numbers_are_not_stored(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        RunStore(tmp_path).put("run", CONFIG, {"loss": float("nan")}, {})
    assert list(tmp_path.iterdir()) == []


def small(method: str, seed: int = 3, cycles: int = 2, detail: str = "", activation: str = "", **options: Any) -> Scenario:
    return Scenario(
        "arc_easy", "nano/opt-s", seed, method, TrainingConfig(0.5, 1e-3, 8), options, cycles,
        cycle_size=4, train_size=24, test_size=4, holdout_size=8, reference_size=8, measured=4,
        detail=detail, activation=activation,
    )  # fmt: skip


GRID = [small("original"), small("gradient-ascent", step=0.05), small("fisher-removal", preset="paper", step=0.05)]


def test_same_seed_same_record_bit_for_bit_and_interruption_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compute(GRID, RunStore(tmp_path / "a"))
    # the second store is interrupted after one scenario, then resumed
    store, real, calls = RunStore(tmp_path / "b"), bench.Bench.run, []

    def fails_at_the_second(self: Any, scenario: Scenario) -> Any:
        calls.append(scenario.method)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, scenario)

    monkeypatch.setattr(bench.Bench, "run", fails_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        compute(GRID, store)
    assert len(list((tmp_path / "b").iterdir())) == 1
    second = compute(GRID, store)
    assert calls == ["original", "gradient-ascent", "gradient-ascent", "fisher-removal"]
    for a, b in zip(first, second, strict=True):
        assert {k: v for k, v in a.items() if k not in ("timing", "provenance")} == {
            k: v for k, v in b.items() if k not in ("timing", "provenance")
        }
    after = first[1]["results"]["after"]
    assert after[0]["forget_loss"] > first[0]["results"]["before"][0]["forget_loss"]
    assert compute(GRID, store) == second
    assert len(calls) == 4, "finished records are not computed again"


def test_a_changed_input_never_reuses_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    before = key(GRID[1].config())
    assert key(small("gradient-ascent", step=0.06).config()) != before
    monkeypatch.setattr(scenarios, "_task_sha256", lambda *_: "other data")
    assert key(GRID[1].config()) != before
    monkeypatch.undo()
    monkeypatch.setattr(scenarios, "NUMERICS_VERSION", scenarios.NUMERICS_VERSION + 1)
    assert key(GRID[1].config()) != before


def test_a_missing_record_says_how_to_compute_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unlearn reproduce"):
        load(GRID, RunStore(tmp_path))


def results(records: list[Any]) -> list[Any]:
    return [record["results"] for record in records]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums depend on the number of threads; every process of a grid has one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
def test_processes_give_the_same_records(tmp_path: Path) -> None:
    grid = [small("original", seed) for seed in (3, 4)]
    lines: list[str] = []
    assert results(compute(grid, RunStore(tmp_path / "a"), lines.append, processes=2)) == results(
        compute(grid, RunStore(tmp_path / "b"))
    )
    assert [line.partition(":")[0] for line in sorted(lines)] == [scenario.name for scenario in grid]


def test_what_a_run_measures(tmp_path: Path) -> None:
    """Retraining is at no distance from itself; the calibrated step stops by texts that are not measured."""
    calibrated = small("fisher-removal", solver="block", step="calibrate", steps=1, cycles=1)
    retrained, forgot = results(compute([small("retrain", cycles=1), calibrated], RunStore(tmp_path)))
    assert retrained["before"] == forgot["before"]
    assert [retrained["after"][0][f"{name}_kl"] for name in ("forget", "retain", "holdout")] == [0.0, 0.0, 0.0]
    assert all(forgot["after"][0][f"{name}_kl"] > 0 for name in ("forget", "retain", "holdout"))
    assert forgot["after"][0]["forget_loss"] > forgot["before"][0]["forget_loss"]
    one = bench.Bench(calibrated)
    parts = one.parts(4)
    assert [len(parts[name]) for name in ("forget", "retain", "holdout")] == [4, 4, 4]
    assert not set(parts["forget"]) & set(parts["retain"])
    assert one.parts(8)["retain"] == parts["retain"], "the same texts after every cycle"


def test_details(tmp_path: Path) -> None:
    grid = [small("retrain", cycles=1, detail=name) for name in ("exposures", "weights")]
    few = replace(small("original", cycles=1, detail="onion"), reference_size=4)  # so that some samples rank first or second
    exposed, weights, onion = results(compute([*grid, few], RunStore(tmp_path)))
    assert len(exposed["exposures"]) == 24
    assert len(exposed["forgotten"]) == 4
    assert weights["weights"]["counts"] == weights["weights"]["retrained_counts"]
    assert weights["weights"]["divergence"]["float32"] == weights["weights"]["relative_distance"] == 0.0
    above = [i for i, value in enumerate(onion["exposures"]) if value >= onion["cutoff"]]
    assert above
    assert sorted(above + onion["kept"]) == list(range(24))
    assert len(onion["exposures_after"]) == len(onion["kept"])


def test_private_training_and_another_activation(tmp_path: Path) -> None:
    private = small("dp-sgd", cycles=1, epsilon=10.0, epochs=1)
    first, swapped, plain = results(
        compute([private, small("original", activation="gelu_new"), small("original")], RunStore(tmp_path))
    )
    assert 9 < first["after"][0]["epsilon"] <= 10
    assert first["after"][0]["forget_loss"] != first["before"][0]["forget_loss"]
    assert swapped["before"][0]["forget_loss"] != plain["before"][0]["forget_loss"]
