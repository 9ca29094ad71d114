"""Intervals, units and orders, by hand-computed cases."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from unlearn_lib.reproduction.exhibits import (
    exam_erasure,
    exam_frontier,
    exam_intervals,
    exam_units,
    fig03_tradeoff,
    intervals,
    paper_scale,
    sweeps,
)
from unlearn_lib.reproduction.runs.profiles import PAPER

ROOT = Path(__file__).parents[1]


def test_interval_by_hand() -> None:
    """Mean 2, standard deviation 1, t(0.975; 2) = 4.3027."""
    mean, low, high = intervals.interval([1, 2, 3])
    assert mean == 2
    assert (low, high) == pytest.approx((2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), rel=1e-6)
    assert intervals.Interval(2.0, -0.484, 4.484).text() == "+2.00 [-0.48, +4.48]"
    assert math.isnan(intervals.interval([1])[1])
    assert intervals.interval([-1]).text() == "-1.00"


def test_error_of_an_accuracy() -> None:
    assert intervals.accuracy_error(50, 2500) == pytest.approx(1.0)
    assert intervals.accuracy_error(10, 100) == pytest.approx(3.0)


def run(method: str, seed: int, **values: float) -> dict[str, Any]:
    cell = {"task": "piqa", "family": "neo", "size": "s", "removed": 32}
    return {**cell, "method": method, "seed": seed, "delta_acc": 0.0, "delta_exp": 0.0, **values}


def test_headline_says_what_is_beyond_zero() -> None:
    runs = pd.DataFrame([run("retrain", seed, delta_acc=seed - 1, delta_exp=-1 + 0.01 * seed) for seed in range(3)])
    (row,) = exam_intervals.headline(runs).to_dict("records")
    assert (row["seeds"], row["acc_beyond"], row["exp_beyond"]) == (3, False, True)


def test_headline_keeps_the_methods_of_a_cycle_together() -> None:
    runs = [run(method, 0, removed=removed) for method in ("retrain", "finetune") for removed in (32, 64)]
    shown = exam_intervals.headline_text(exam_intervals.headline(pd.DataFrame(runs)))
    assert list(zip(shown.removed, shown.method, strict=True)) == [
        (32, "Retraining"),
        (32, "Finetuning"),
        (64, "Retraining"),
        (64, "Finetuning"),
    ]
    assert set(shown.model) == {"small GPT-Neo"}


def test_rows_of_the_benchmark_have_readable_names() -> None:
    assert exam_frontier.readable("simnpo, with KL term, 10 %") == "SimNPO, with KL term, 10 %"
    assert exam_frontier.readable("newton (CG on Gauss-Newton, 32 texts), one step").endswith("of 32 texts, one step")
    rows = json.loads((ROOT / "benchmarks/methods.json").read_text(encoding="utf-8"))["rows"]
    names = [exam_frontier.readable(label) for label in rows]
    assert len(set(names)) == len(rows)
    raw = re.compile(
        r"\b(wga|undial|dpo|rmu|memflex|sophia|eul|sisa|npo|simnpo)\b|\w-(newton|removal|forgetting|difference|ascent)\b"
    )
    assert not [name for name in names if raw.search(name)]


def test_fisher_removal_beside_retraining_by_hand() -> None:
    """Texts to remove and terms of 8 texts, as many as there are, in every pass; retraining goes over the rest five times."""
    sizes = {task: PAPER.train_sizes[task] for task in ("arc_easy", "mathqa")}
    found = paper_scale.of_retraining("fisher-removal", replace(PAPER, train_sizes=sizes))
    for task, number in (("ARC-Easy", 2251), ("MathQA", 29837)):
        rest = number - PAPER.cycle_size
        for weights, passes in (("125M", 1), ("1.3B", 4), ("2.7B", 20)):
            terms = min(1024, math.ceil(rest / 8))
            assert found.loc[task, weights] == pytest.approx((PAPER.cycle_size + passes * 8 * terms) / (5 * rest))


def test_only_some_exposures_are_possible() -> None:
    assert exam_units.possible("nats", 2) == pytest.approx([6.907755, 6.214608])
    assert exam_units.possible("bits", 1) == pytest.approx([9.965784])
    found = exam_units.in_possible_bins(6.0)
    # ranks 1 and 2: the bins around 6.91 (203 samples) and 6.21 (133)
    assert found.loc["nats", ["bins that hold a value", "samples in such bins", "samples"]].tolist() == [2, 336, 346]


def test_orders_and_overshooting() -> None:
    """Far below retraining's ΔEXP: first by the paper's reading, last by the other two."""
    runs = pd.DataFrame(
        [
            run("retrain", 0, delta_exp=-1, forget_kl=0, forget_loss=1.0, attack_auc=0.5),
            run("fisher-removal", 0, delta_exp=-5, forget_kl=3, forget_loss=4.0, attack_auc=0.3),
            run("gradient-ascent", 0, delta_exp=-1.1, forget_kl=0.1, forget_loss=1.01, attack_auc=0.5),
            run("finetune", 0, delta_exp=0.5, forget_kl=0.2, forget_loss=0.8, attack_auc=0.8),
        ]
    )
    found = exam_erasure.orders(runs)
    assert found.loc["Fisher Removal"].tolist() == [1, 3, 3, 1]
    assert found.loc["Gradient Ascent"].tolist() == [2, 1, 1, 1]
    over = exam_erasure.beyond_retraining(runs)
    assert over.loc["Fisher Removal"].tolist() == [100, 100, 100, 1]
    assert over.loc["Gradient Ascent"].tolist() == [0, 0, 0, 1]


def record(method: str, seed: int, options: dict[str, Any], after: dict[str, float]) -> Any:
    before = {"exposure_nats": 3.0, "accuracy": 50.0, "forget_loss": 1.0, "retain_loss": 1.0, "holdout_loss": 2.0}
    before |= {"attack_auc": 0.9, "holdout_kl": 0.1, "retain_kl": 0.1}
    own = {"cosine_to_gradient": 1.0, "gradient_evaluations": 32}
    config = {"task": "piqa", "model": "nano/opt-s", "seed": seed, "method": method, "options": options, "cycle_size": 32}
    config |= {"profile": "nano"}
    return {"config": config, "results": {"before": [before], "after": [{**before, **own, **after}]}, "timing": {}}


def test_a_sweep_measures_the_damage() -> None:
    records = [
        record("fisher-removal", s, {"damping": 1.0}, {"forget_loss": 1.5, "retain_loss": 1.1 + 0.1 * s}) for s in (0, 1)
    ]
    records += [record("original", s, {}, {}) for s in (0, 1)]
    found = sweeps.means(sweeps.sweep(records, ["damping"]), ["damping"])
    assert found.damage_mean.tolist() == pytest.approx([0.3])  # 0.1 / 0.5 and 0.2 / 0.5
    assert found.damage_sd.tolist() == pytest.approx([0.1 * math.sqrt(2)])


def test_points_of_the_tradeoff() -> None:
    private = [record("dp-sgd", s, {"epsilon": 1.0}, {"exposure_nats": 1.0 + s, "epsilon": 0.99}) for s in (0, 1)]
    found = fig03_tradeoff.points(fig03_tradeoff.runs([record("original", 0, {}, {}), *private]))
    assert found.method.tolist() == ["original", "dp-sgd"]
    assert found.exposure_drop_mean.tolist() == pytest.approx([0.0, 1.5])
    assert found.epsilon.tolist()[1] == pytest.approx(0.99)
    assert found.seeds.tolist() == [1, 2]
