"""The page on other roads: its table and series are those of the records, by hand on made-up ones."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from unlearn_lib.methods import METHODS
from unlearn_lib.reproduction.exhibits import other_roads

ROOT = Path(__file__).resolve().parents[1]


def run(damage: float, reached: float = 1.0) -> dict[str, Any]:
    measured = {"damage_ratio": damage, "used_damage_ratio": 0.0, "forget_loss": 1.0, "forget_kl": 0.5, "retain_kl": 0.1}
    return measured | {
        "holdout_kl": 0.2,
        "used_loss": 0.3,
        "holdout_loss": 0.9,
        "cost": 50.0,
        "reached": reached,
        "commit": "c",
    }


def made_up() -> dict[str, Any]:
    """Every row has damage .1 and .3 in one family and .5 and .7 in the other, where one run ends short of the goal."""
    families = {"neo": [run(0.1), run(0.3)], "opt": [run(0.5), run(0.7, 0.0)]}
    own = {"own_forget_loss": 0.4, "own_used_loss": 0.2, "own_holdout_loss": 0.8}
    rows = {
        label: {
            family: {
                "options": {},
                "needs": ["retain"],
                "seeds": [{**seed, **(own if label in other_roads.OWN else {})} for seed in seeds],
            }
            for family, seeds in families.items()
        }
        for label in other_roads.NAMES
    }
    return {"rows": rows, "setting": {"train": 30, "forget": 5, "training": {"epochs": 4}}, "environments": []}


def test_the_table_has_means_over_seeds_and_families_and_says_who_falls_short() -> None:
    table = other_roads.table(made_up()).set_index("method")
    assert list(table.index) == list(other_roads.NAMES.values())
    line = table.loc["WGA with a KL term"]
    assert line[other_roads.OUTSIDE] == pytest.approx(0.4)
    assert line[other_roads.COST] == pytest.approx(0.5)  # 50 of 4 * 25
    assert (line["short of the goal"], line["needs"]) == (1, "retained texts")
    assert line[list(other_roads.COSTS.values())].tolist() == pytest.approx([0.5, 0.5])
    assert table.needs["SISA"] == "all texts and checkpoints"


def test_models_of_their_own_are_compared_with_themselves() -> None:
    lines = other_roads.own_models(made_up())
    assert list(lines.method) == ["SISA", "SISA", "certified Newton", "certified Newton"]
    assert lines.iloc[0][["forgotten, before", "forgotten, after", "retained, before"]].to_list() == [0.4, 1.0, 0.2]


def test_the_figure_is_in_the_order_of_the_damage() -> None:
    report = made_up()
    report["rows"]["rmu"]["neo"]["seeds"] = [run(9.0), run(9.0)]
    names = [label.get_text() for label in other_roads.figure(report).axes[0].get_yticklabels()]
    assert names[0] == "RMU (50 %)"  # the most damage stands at the bottom
    assert len(names) == len(other_roads.ROADS) + len(other_roads.BESIDE) - 2


def test_a_cost_that_differs_between_families_is_told_for_both() -> None:
    report = made_up()
    for seed in report["rows"]["rmu"]["neo"]["seeds"]:
        seed["cost"] = 110.0
    labels = [label.get_text() for label in other_roads.figure(report).axes[0].get_yticklabels()]
    assert "RMU (50 and 110 %)" in labels
    assert "Sophia (50 %)" in labels


def test_the_harm_is_a_rise_for_each_nat_forgotten() -> None:
    end = pd.DataFrame({"forgotten": [3.0, 5.0], "outside": [1.0, 2.5]}, index=["at once", "in turn"])
    assert other_roads.harm(end, pd.Series({"forgotten": 1.0, "outside": 0.5})).tolist() == [0.25, 0.5]


def test_series_add_the_gradients_up_where_requests_are_served_in_turn() -> None:
    def entry(losses: list[float], gradients: float | None = None) -> dict[str, Any]:
        found = {"requests": losses, "retain": 0.5, "outside": 0.6, "unseen": 3.0}
        return found if gradients is None else {**found, "gradients": gradients}

    both = {
        "in turn": [entry([0.4, 0.6]), entry([3.0, 0.6], 10.0), entry([3.2, 3.0], 12.0)],
        "at once": [entry([3.0, 0.6], 10.0), entry([2.8, 3.0], 15.0)],
    }
    served = {"runs": [{"model": "m", "seed": 0, "ways": {"sisa": both}}]}
    layers = {"forget": 2.0, "newest": 2.5, "retain": 0.7, "outside": 0.8}
    after = [
        {"requests": k, "losses": dict.fromkeys(("fused, ridge 0", "one request for all"), layers), "gradients": cost}
        for k, cost in ((1, {"own layers": 5, "one request for all": 5}), (2, {"own layers": 6, "one request for all": 9}))
    ]
    lines = other_roads.sequences(served, {"runs": [{"model": "m", "seed": 0, "unseen": 3.0, "after": after}]})
    known = lines.set_index(["way", "how", "requests"]).sort_index()
    assert known.gradients["sisa", "in turn"].to_dict() == {0: 0, 1: 10, 2: 22}
    assert known.gradients["sisa", "at once"].to_dict() == {1: 10, 2: 15}
    assert known.forgotten["sisa", "in turn"].to_dict() == {0: 0.5, 1: 3.0, 2: pytest.approx(3.1)}
    assert known.gradients[other_roads.FUSED, "in turn"].to_dict() == {1: 5, 2: 11}
    assert known.gradients[other_roads.FUSED, "at once"].to_dict() == {1: 5, 2: 9}


def test_every_method_has_its_row_in_the_benchmark_and_every_road_its_paragraph() -> None:
    """But for retraining, which is the reference, and the recipe of Jang et al., which is gradient ascent with another end."""
    rows = json.loads((ROOT / "benchmarks" / "methods.json").read_text(encoding="utf-8"))["rows"]
    assert {entry["method"] for families in rows.values() for entry in families.values()} == {*METHODS, "original"}
    text = (ROOT / "notebooks" / "other_roads.ipynb").read_text(encoding="utf-8")
    for label in (*other_roads.ROADS, *other_roads.OWN):
        assert f"**`{next(iter(rows[label].values()))['method']}`" in text, label
