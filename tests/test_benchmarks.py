"""The committed benchmark keeps the promises of the library, and its script still runs."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


def rows(part: str) -> dict[str, dict[str, Any]]:
    report = json.loads((FOLDER / "curvature.json").read_text())
    assert report["environment"].keys() >= {"device", "python", "torch", "unlearn_lib"}
    return {row["operation"]: row for row in report[part]}


def test_the_record_keeps_the_promises() -> None:
    solves, products = rows("solves"), rows("products")
    assert solves["woodbury (default)"]["gradients_by_flops"] <= 3.0
    assert solves["woodbury (default)"]["residual"] <= 3e-5
    assert solves["woodbury (default)"]["memory_of_gradients"] <= 2.0
    assert rows("algebra_n64_P1e6")["recursion, eq. 7-8"]["gradients_by_time"] >= 12
    assert products["Hessian product, linearized"]["gradients_by_flops"] == pytest.approx(2.0)
    assert products["Gauss-Newton product, linearized"]["gradients_by_flops"] == pytest.approx(4 / 3)
    assert products["Hessian product"]["error_against_float64"] < 1e-5
    peer = rows("curvlinops")["hessian product, curvlinops 3.0.1"]
    assert peer["error_against_float64"] > 1e-4  # LayerNorm, see test_torch_traps


def test_a_model_that_memorised_forgets_by_default() -> None:
    """At least 95 % of the gap, at a damage ratio of at most 0.06, with every option at its default."""
    report = json.loads((FOLDER / "memorising.json").read_text())
    assert len(report["runs"]) >= 3
    for run in report["runs"]:
        assert run["before"]["holdout"] - run["before"]["retain"] > 1.5
        found, ascent = run["variants"]["default"], run["variants"]["gradient, one step"]
        assert found["warnings"] == []
        assert found["closed"] >= 0.95
        assert found["damage_ratio"] <= 0.06 < 0.2 * ascent["damage_ratio"]


def test_the_ways_it_compares_agree() -> None:
    spec = importlib.util.spec_from_file_location("benchmark_curvature", FOLDER / "curvature.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for row in module.algebra(8, 5000, "cpu"):
        assert row["error_against_float64"] < 1e-4
