"""What a run record holds: every committed one is valid, and nothing else is read or written."""

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unlearn_lib.errors import InputError
from unlearn_lib.reproduction.runs import paper_plans
from unlearn_lib.reproduction.runs.record import KINDS, problem
from unlearn_lib.reproduction.runs.store import RunStore, key

ROOT = Path(__file__).parents[1]
RECORDS = sorted(path for path in (ROOT / "results").rglob("*.json") if path.parent.name not in ("results", "models"))
LIGHT = ROOT / "unlearn_lib" / "reproduction" / "exhibits"
LIVE = {"table10_boilerplate"}
"""Exhibits of texts, which are tokenised while the notebook runs."""


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_every_committed_record_is_valid_and_lies_under_its_key() -> None:
    assert len(RECORDS) > 1300
    kinds = set()
    for path in RECORDS:
        record = read(path)
        assert problem(record) is None, path
        assert path.stem.endswith(f"-{key(record['config'])[:12]}")
        assert json.dumps(record, indent=1, allow_nan=False) + "\n" == path.read_text(encoding="utf-8"), (
            "written as by the store"
        )
        kinds.add(record["config"].get("scenario", record["config"].get("benchmark")))
    assert kinds == set(KINDS)


def test_the_committed_plans_are_valid(tmp_path: Path) -> None:
    found = paper_plans.read(ROOT)
    assert len(found["models"]) == 6
    (tmp_path / "results").mkdir()
    for text in ("{", "[]", json.dumps({**found, "tokens": "96"}), json.dumps({**found, "more": 1})):
        paper_plans.path(tmp_path).write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match=r"plans\.json holds no plans"):
            paper_plans.read(tmp_path)


def one_of(**wanted: str) -> dict[str, Any]:
    """The first committed record whose configuration has these values."""
    return next(
        record for record in map(read, RECORDS) if all(record["config"].get(name) == value for name, value in wanted.items())
    )


EXAMPLES = {
    "cycles": {"scenario": "forgetting-cycles", "method": "fisher-removal", "detail": ""},
    "weights": {"scenario": "forgetting-cycles", "method": "fisher-removal", "detail": "weights"},
    "original": {"scenario": "forgetting-cycles", "method": "original", "detail": "onion"},
    "case": {"scenario": "case-study", "method": "original"},
    "benchmark": {"benchmark": "methods", "method": "finetune"},
}


def places(value: Any, *path: str | int) -> Iterator[tuple[str | int, ...]]:
    """The paths to all fields of the objects in a record, of lists to those of their first entry."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield (*path, name)
            yield from places(inner, *path, name)
    elif isinstance(value, list) and value:
        yield from places(value[0], *path, 0)


FREE = ("options", "model_sha256", "timing", "divergence", "found")
"""Objects whose fields are named by what was run: any field that is not there may be missing."""
OPTIONAL = {
    "step_norm",
    "cosine_to_gradient",
    "incomplete",
    "gradient_evaluations",
    "forward_evaluations",
    "cost",
    "extraction_unseen",
    "steps",
    "reached",
}


LATER = {"model", "given", "unseen", "compared", "measure", "used_loss", "used_damage_ratio", "used_kl"}
"""What the first records of the benchmark of methods did not have."""


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_field_that_is_missing_unknown_or_of_another_type_is_refused(example: str) -> None:
    record = one_of(**EXAMPLES[example])
    tried = 0
    for *path, name in places(record):
        free = bool(path) and path[-1] in FREE

        def at(changed: Any, path: list[str | int] = path) -> Any:
            for step in path:
                changed = changed[step]
            return changed

        without, renamed, mistyped = copy.deepcopy(record), copy.deepcopy(record), copy.deepcopy(record)
        del at(without)[name]
        at(renamed)[f"{name}_too"] = at(renamed)[name]
        at(mistyped)[name] = [at(mistyped)[name]]
        if not path and name == "config":
            continue  # the store compares it before
        if not free and name not in (OPTIONAL | LATER if example == "benchmark" else OPTIONAL):
            assert problem(without) is not None, (path, name)
        if not free:
            assert problem(renamed) is not None, (path, name)
        assert problem(mistyped) is not None, (path, name)
        tried += 1
    assert tried > 20


def test_numbers_texts_and_truth_values_are_not_taken_for_each_other() -> None:
    record = one_of(**EXAMPLES["case"])
    for change in (
        lambda config: config.update(seed="0"),
        lambda config: config.update(seed=0.0),
        lambda config: config.update(deduplicate=0),
        lambda config: config.update(duplicates="0.2"),
        lambda config: config.update(long=True),
        lambda config: config.update(detail="histogram"),
        lambda config: config.update(scenario="forgetting-cycles"),
        lambda config: config.update(scenario="another"),
        lambda config: config["options"].update(step=[1.0]),
    ):
        changed = copy.deepcopy(record)
        change(changed["config"])
        assert problem(changed) is not None, changed["config"]
    for value in (float("nan"), float("inf"), "0.5", True):
        changed = copy.deepcopy(record)
        changed["results"]["before"][0]["forget_loss"] = value
        assert problem(changed) is not None


def test_results_fit_the_configuration() -> None:
    record = one_of(**EXAMPLES["cycles"])
    assert record["config"]["cycles"] == 2
    short, detailed, untimed = copy.deepcopy(record), copy.deepcopy(record), copy.deepcopy(record)
    short["results"]["after"].pop()
    detailed["config"]["detail"] = "weights"
    del untimed["timing"]["cycle_2_seconds"]
    for changed, words in (
        (short, "1 states for 2 cycles"),
        (detailed, "should be after, before, weights"),
        (untimed, "timing"),
    ):
        assert words in str(problem(changed))


def test_the_store_refuses_what_is_no_valid_record(tmp_path: Path) -> None:
    record, store = one_of(**EXAMPLES["cycles"]), RunStore(tmp_path)
    path = store.path("run", record["config"])
    path.write_text(json.dumps(record), encoding="utf-8")
    assert store.get("run", record["config"]) == record
    spoiled = copy.deepcopy(record)
    del spoiled["results"]["before"][0]["accuracy"]
    path.write_text(json.dumps(spoiled), encoding="utf-8")
    with pytest.raises(InputError, match=r"results\.before\.0\.accuracy.*delete it and run again"):
        store.get("run", record["config"])
    path.unlink()
    with pytest.raises(ValueError, match="not what a run of its configuration gives"):
        store.put("run", record["config"], spoiled["results"], record["timing"])
    assert list(tmp_path.iterdir()) == []


def test_what_shows_records_loads_neither_torch_nor_transformers() -> None:
    names = sorted(path.stem for path in LIGHT.glob("*.py") if path.stem not in LIVE)
    assert {"frames", "intervals", "utility", "table08_cases"} <= set(names)
    code = "import importlib, sys\n"
    code += "".join(f"importlib.import_module('unlearn_lib.reproduction.exhibits.{name}')\n" for name in names)
    code += "print(*({'torch', 'transformers', 'datasets', 'scipy.stats'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, encoding="utf-8", cwd=ROOT)
    assert done.stdout.strip() == ""


def test_writing_an_interval_takes_next_to_nothing() -> None:
    code = "import sys; before = set(sys.modules); import unlearn_lib.reproduction.exhibits.intervals\n"
    code += "print(sum(name.startswith('unlearn_lib') for name in set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, encoding="utf-8", cwd=ROOT)
    assert int(done.stdout) <= 5


def test_a_notebook_that_only_reads_records_loads_no_torch() -> None:
    code = (
        "import sys; from unlearn_lib.reproduction.book.session import begin; from unlearn_lib.reproduction.runs import grids; "
        "session = begin(); assert session.records(grids.cycles(session.profile)); "
        "print(*({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
