"""Intervals, units and orders, by hand-computed cases."""

import math
from typing import Any

import pandas as pd
import pytest

from unlearn_lib.reproduction.exhibits import exam_erasure, exam_intervals, exam_units, fig03_tradeoff, intervals, sweeps


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
