from typing import Any

import pandas as pd
import pytest

from unlearn_lib.errors import InputError
from unlearn_lib.reproduction import paper
from unlearn_lib.reproduction.book.session import begin
from unlearn_lib.reproduction.exhibits import cells, frames, settings_table, utility
from unlearn_lib.reproduction.runs import options


def test_reported_numbers_are_complete_and_have_the_papers_own_counts() -> None:
    printed = paper.reported("utility_and_exposure")
    printed = printed[printed.method != "gradient-ascent-adam"]
    assert len(printed) == 4 * 5 * 3 * 2 * 2
    assert set(printed.mark) == {"seen"}
    wide = printed.pivot(index=["task", "size", "family", "removed"], columns="method", values="delta_exp")
    below = {method: int((wide[method] < wide.retrain).sum()) for method in wide.columns}
    # counted by hand over the 48 scenarios of tables 3, 4, 5 and 9
    assert below == {"finetune": 0, "fisher-forgetting": 6, "fisher-removal": 41, "gradient-ascent": 33, "retrain": 0}
    assert int((printed.delta_acc <= -10).groupby(printed.method).sum()["gradient-ascent"]) == 19
    assert printed.delta_exp.min() == -6.49
    cycles = paper.reported("cycles")
    assert set(cycles.mark) == {"digitised"}
    assert len(cycles[cycles.method != "gradient-ascent-adam"]) == 2 * 3 * 4


def record(method: str, seed: int, accuracy: list[float], before: list[float]) -> dict[str, Any]:
    def state(value: float) -> dict[str, float]:
        return {
            "accuracy": value,
            "exposure_nats": value / 10,
            "forget_loss": value / 100,
            "retain_loss": value / 200,
            "holdout_loss": 1.0,
        }

    return {
        "config": {
            "task": "arc_easy",
            "model": "nano/opt-s",
            "seed": seed,
            "method": method,
            "cycle_size": 32,
            "profile": "nano",
        },
        "results": {"before": [state(v) for v in before], "after": [state(v) for v in accuracy]},
        "timing": {"cycle_1_seconds": 2.0, "cycle_2_seconds": 3.0},
        "provenance": {"processor": "P", "device": "cpu", "torch": "T", "commit": "C"},
    }


@pytest.fixture
def runs() -> pd.DataFrame:
    records = [record("original", seed, [], [60.0, 60.0]) for seed in (0, 1)]
    records += [
        record("fisher-removal", 0, [50.0, 40.0], [60.0, 60.0]),
        record("fisher-removal", 1, [54.0, 40.0], [60.0, 60.0]),
    ]
    return frames.tidy(records)


def test_changes_and_spread_over_seeds_by_hand(runs: pd.DataFrame) -> None:
    compared = utility.beside_reported(runs)
    assert compared.removed.tolist() == [32, 64]
    assert compared.paper_removed.tolist() == [128, 256]
    assert compared.delta_acc_mean.tolist() == [-8.0, -20.0]
    assert compared.delta_acc_sd.tolist() == pytest.approx([8**0.5, 0.0])
    assert compared.delta_exp_mean.tolist() == pytest.approx([-0.8, -2.0])
    # Table 3, OPT-125M: printed
    assert compared.paper_delta_acc.tolist() == [-4.84, -10.27]
    assert compared.paper_delta_exp.tolist() == [-0.07, -5.93]


def test_layout_prints_the_runs_beside_the_papers_numbers(runs: pd.DataFrame) -> None:
    table = utility.layout(utility.beside_reported(runs))
    first = table.loc[("small OPT (125M)", "32 (128)", "Fisher Removal")]
    assert first.tolist() == [plain("-8.00 ± 2.83"), "-4.84", plain("-0.80 ± 0.28"), "-0.07"]
    assert table.loc[("small OPT (125M)", "64 (256)", "Fisher Removal"), "ΔEXP, this repository"] == plain("-2.00 ± 0.00")


def plain(text: str) -> str:
    return text.replace(" ", cells.NO_BREAK)


def test_rises_and_damage_ratio_by_hand(runs: pd.DataFrame) -> None:
    # losses fall here, so there is no forgetting and no ratio
    assert utility.loss_changes(runs)["forget rise"].tolist() == [plain("-0.080 ± 0.028"), plain("-0.200 ± 0.000")]
    assert utility.loss_changes(runs)["damage ratio"].tolist() == ["", ""]
    rising = frames.tidy(
        [record("original", 0, [], [60.0, 60.0]), record("original", 1, [], [60.0, 60.0])]
        + [record("fisher-removal", seed, [80.0, 100.0], [60.0, 60.0]) for seed in (0, 1)]
    )
    assert utility.loss_changes(rising)["damage ratio"].tolist() == ["0.50", "0.50"]


def test_no_negative_zero() -> None:
    assert cells.plus_minus(-0.001, 0.0) == plain("+0.00 ± 0.00")
    assert cells.plus_minus(1.0, float("nan")) == "+1.00"


def test_rows_are_named_as_a_reader_knows_them() -> None:
    index = pd.MultiIndex.from_tuples(
        [("piqa", "opt", "s", "fisher-removal-calibrated", 32)], names=["task", "family", "size", "method", "removed"]
    )
    table = pd.DataFrame({"x": [1.0]}, index)
    assert cells.readable(table).index[0] == ("PIQA", "OPT", "small", paper.METHODS["fisher-removal-calibrated"], 32)
    assert cells.readable(table, paper.CASE_METHODS).index[0][3].endswith("four steps")
    assert cells.readable(table.droplevel([0, 2, 3, 4])).index.tolist() == ["OPT"]
    assert paper.model_name("neo", "m") == "medium GPT-Neo"


def test_a_dash_stands_where_there_is_no_number() -> None:
    table = pd.DataFrame({"share": [0.126, float("nan")], "count": [3, 4], "word": ["yes", None]})
    assert cells.dashed(table).to_numpy().tolist() == [["0.13", 3, "yes"], ["–", 4, "–"]]
    assert cells.dashed(table, 1).share.tolist() == ["0.1", "–"]


def test_the_models_of_a_table_go_from_small_to_large() -> None:
    records = [
        {**one, "config": {**one["config"], "model": f"nano/{model}"}}
        for model in ("neo-l", "neo-s", "opt-m")
        for one in (record("original", 0, [], [60.0, 60.0]), record("fisher-removal", 0, [50.0, 40.0], [60.0, 60.0]))
    ]
    table = utility.layout(utility.beside_reported(frames.tidy(records)))
    models = list(dict.fromkeys(table.index.get_level_values(0)))
    assert models == ["small GPT-Neo (125M)", "large GPT-Neo (2.7B)", "medium OPT (1.3B)"]


def test_the_settings_table_says_what_the_runs_use() -> None:
    table = settings_table.table().set_index("what")
    used = options.options("s")
    assert table.loc["removal rate gamma", "nano"] == f"{used['fisher-removal']['step']:g}"
    assert used["fisher-removal"]["step"] == pytest.approx(5 * used["gradient-ascent"]["step"])


def test_unknown_profile() -> None:
    with pytest.raises(InputError, match="unknown profile 'cloud'; choose one of: nano"):
        begin("cloud")
