"""The committed benchmark keeps the promises of the library, and its script still runs."""

import importlib.util
import json
import statistics
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


def test_the_table_that_decides() -> None:
    """At the retrained model's forget loss: what one step costs, what a few steps cost, and that the paper's is the gradient."""
    report = json.loads((FOLDER / "methods.json").read_text())
    assert report["environment"].keys() >= {"device", "python", "torch", "processor"}

    def mean(label: str, family: str, measure: str = "damage_ratio") -> float:
        runs = report["rows"][label][family]["seeds"]
        assert len(runs) >= 5
        return statistics.fmean(run[measure] for run in runs)

    for family in ("neo", "opt"):
        retrained = mean("retraining", family, "forget_loss")
        gap = retrained - mean("original", family, "forget_loss")
        one, few = "fisher-removal, blocks of 48, one step", "fisher-removal, blocks of 48, 4 steps"
        gradient, paper = "gradient, one step", "fisher-removal, paper (damping 1), one step"
        for label in (one, few, gradient, paper):
            assert all(run["reached"] for run in report["rows"][label][family]["seeds"])
            assert abs(mean(label, family, "forget_loss") - retrained) <= 0.02 * gap
        assert mean(one, family) <= 0.18
        assert mean(few, family) <= 0.08
        assert mean("fisher-removal, default (K-FAC, 4 steps)", family) <= 0.08
        assert mean(gradient, family) >= 0.4
        for measure in ("damage_ratio", "holdout_loss", "retain_kl"):
            assert mean(paper, family, measure) == pytest.approx(mean(gradient, family, measure), rel=0.005)


def test_the_ways_it_compares_agree() -> None:
    spec = importlib.util.spec_from_file_location("benchmark_curvature", FOLDER / "curvature.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for row in module.algebra(8, 5000, "cpu"):
        assert row["error_against_float64"] < 1e-4
