import json
from pathlib import Path
from typing import Any

import pytest

from unlearn_lib.errors import InputError
from unlearn_lib.reproduction import scenarios
from unlearn_lib.reproduction.scenarios import Scenario, run
from unlearn_lib.reproduction.store import RunStore, key
from unlearn_lib.training import TrainingConfig

CONFIG: dict[str, Any] = {"method": "x", "options": {"step": 1.0}, "data": "abc"}


def test_a_record_is_found_by_its_whole_configuration(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.put("run", CONFIG, {"loss": 1.5}, {"seconds": 2.0})
    record = store.get("run", {"data": "abc", "options": {"step": 1.0}, "method": "x"})
    assert record is not None
    assert record["results"] == {"loss": 1.5}
    assert set(record["provenance"]) >= {"commit", "torch", "processor", "threads"}
    for changed in ({"data": "abd"}, {"options": {"step": 1.1}}, {"seed": 0}):
        assert store.get("run", CONFIG | changed) is None
    assert key(CONFIG) != key(CONFIG | {"data": "abd"})


def test_a_damaged_or_edited_record_is_refused(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.put("run", CONFIG, {}, {})
    path = store.path("run", CONFIG)
    path.write_text(json.dumps({"config": CONFIG | {"data": "other"}}))
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
        store.put("run", CONFIG, {}, {})
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_not_numbers_are_not_stored(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        RunStore(tmp_path).put("run", CONFIG, {"loss": float("nan")}, {})
    assert list(tmp_path.iterdir()) == []


def small(method: str, **options: Any) -> Scenario:
    return Scenario(
        "arc_easy", "nano/opt-s", 3, method, TrainingConfig(0.5, 1e-3, 8), options,
        cycles=2, cycle_size=4, train_size=24, test_size=4, holdout_size=4, reference_size=8,
    )  # fmt: skip


GRID = [small("original"), small("gradient-ascent", step=0.05), small("fisher-removal", preset="paper", step=0.05)]


def test_same_seed_same_record_bit_for_bit_and_interruption_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(GRID, RunStore(tmp_path / "a"))
    # the second store is interrupted after one scenario, then resumed
    store, real, calls = RunStore(tmp_path / "b"), scenarios.Bench.run, []

    def fails_at_the_second(self: Any, scenario: Scenario) -> Any:
        calls.append(scenario.method)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, scenario)

    monkeypatch.setattr(scenarios.Bench, "run", fails_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run(GRID, store)
    assert len(list((tmp_path / "b").iterdir())) == 1
    second = run(GRID, store)
    assert calls == ["original", "gradient-ascent", "gradient-ascent", "fisher-removal"]
    for a, b in zip(first, second, strict=True):
        assert {k: v for k, v in a.items() if k not in ("timing", "provenance")} == {
            k: v for k, v in b.items() if k not in ("timing", "provenance")
        }
    after = first[1]["results"]["after"]
    assert after[0]["forget_loss"] > first[0]["results"]["before"][0]["forget_loss"]
    assert run(GRID, store) == second
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
        scenarios.load(GRID, RunStore(tmp_path))
