"""The benchmark of K-FAC at real size: it runs, and keeps its promises where there is time for it."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

FOLDER = Path(__file__).parents[1] / "benchmarks"
GIB = 2**30


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("scale")


@pytest.mark.nightly
def test_the_script_runs(scale: Any, tmp_path: Path) -> None:
    out = tmp_path / "scale.json"
    words = ["--shape", "llama-135m", "--texts", "8", "--layers", "1", "--threads", "1", "--out", str(out)]
    assert CliRunner().invoke(scale.main, words, catch_exceptions=False).exit_code == 0
    row = json.loads(out.read_text())["llama-135m"]
    for build in row["builds"].values():
        parts = [found["seconds"] for part, found in build["parts"].items() if part != "build"]
        assert sum(parts) == pytest.approx(build["parts"]["build"]["seconds"])
        assert build["bytes"] <= 1.2 * build["planned_bytes"]  # the plan is of the build and of a solve with it


@pytest.mark.nightly
def test_135_million_parameters(scale: Any) -> None:
    """By processor time, which other programs change less than the clock on the wall."""
    row = scale.measure("llama-135m", 64, None)
    for build in row["builds"].values():
        assert build["parts"]["build"]["gradients_by_processor_time"] <= 2.5
        assert build["bytes"] <= 1.2 * build["planned_bytes"] <= 6 * GIB
    assert all(found["processor_seconds"] < 10 for found in row["plans"].values())
