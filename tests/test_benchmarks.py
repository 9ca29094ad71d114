"""The committed benchmarks keep the promises of the library, and their scripts still run."""

import itertools
import json
import pickle
import re
import statistics
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from benchmark_script import script
from click.testing import CliRunner

from unlearn_lib import TrainingConfig, text_losses
from unlearn_lib.data.batches import Example
from unlearn_lib.metrics.document_classifier import Attack
from unlearn_lib.reproduction.exhibits import exam_frontier
from unlearn_lib.reproduction.runs.store import RunStore

FOLDER = Path(__file__).parents[1] / "benchmarks"

pytestmark = pytest.mark.usefixtures("benchmark_scripts")


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
    """At least 98 % of the gap, at a damage ratio of at most 0.02 on texts that no method saw, for a tenth of the training, by default."""
    report = json.loads((FOLDER / "memorising.json").read_text())
    assert len(report["runs"]) >= 3
    for run in report["runs"]:
        assert run["before"]["holdout"] - run["before"]["retain"] > 1.5
        found, ascent = run["variants"]["default"], run["variants"]["gradient, one step"]
        assert found["warnings"] == []
        assert found["closed"] >= 0.98
        assert found["damage_ratio"] <= 0.02 < 0.05 * ascent["damage_ratio"]
        cost = found["cost"]["gradient_evaluations"] + found["cost"]["forward_evaluations"] / 3
        assert cost <= 0.1 * run["epochs"] * 316  # of the gradients that training took


def test_the_table_that_decides() -> None:
    """At the retrained model's forget loss: what one step costs, what a few steps cost, and that the paper's is the gradient."""
    report = json.loads((FOLDER / "methods.json").read_text())
    assert all(there.keys() >= {"device", "python", "torch", "processor"} for there in report["environments"])

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
        assert mean(one, family) <= 0.2
        assert mean(few, family) <= 0.08
        assert mean("fisher-removal, default (K-FAC, 4 steps)", family) <= 0.08
        assert mean(gradient, family) >= 0.4
        for measure in ("damage_ratio", "used_damage_ratio", "holdout_loss", "retain_kl"):
            assert mean(paper, family, measure) == pytest.approx(mean(gradient, family, measure), rel=0.005)
        outside = [mean(label, family) for label in (few, one, gradient)]
        assert outside == sorted(outside)


def test_constrained_newton_is_below_every_other_method_at_every_cost() -> None:
    """Between 5 and 50 % of retraining's cost; its damage at 10, 25 and 50 %."""
    table = exam_frontier.table(json.loads((FOLDER / "methods.json").read_text()))
    mine = table.set_index(["row", "family"]).damage_ratio
    for family in ("neo", "opt"):
        assert mine["constrained-newton, 10 %", family] <= 0.03
        assert mine["constrained-newton, 25 %, written texts", family] <= 0.008
        assert mine["constrained-newton, 50 %, written texts", family] <= 0.005
        others = table[(table.family == family) & (table.method != exam_frontier.OURS) & table.share.between(0.05, 0.5)]
        assert len(others) >= 12
        for row in others.itertuples():
            assert row.damage_ratio > exam_frontier.frontier_damage(table, family, row.share), row.row


def test_the_frontier_is_straight_between_its_points_on_logarithmic_axes() -> None:
    """And takes the row with written texts where a budget has both."""
    entry = {"method": exam_frontier.OURS, "family": "neo", "q": None, "written": False}
    rows = pd.DataFrame(
        [
            {**entry, "budget": 0.1, "share": 0.1, "damage_ratio": 0.04},
            {**entry, "budget": 0.4, "share": 0.4, "damage_ratio": 0.02},
            {**entry, "budget": 0.4, "share": 0.4, "damage_ratio": 0.01, "written": True},
        ]
    )
    found = [exam_frontier.frontier_damage(rows, "neo", share) for share in (0.01, 0.1, 0.2, 0.4, 1.0)]
    assert found == pytest.approx([0.04, 0.04, 0.02, 0.01, 0.01])


def test_on_large_models_it_is_below_as_well() -> None:
    methods = script("methods")
    report = json.loads((FOLDER / methods.FILES["large"]).read_text())
    assert report == json.loads(json.dumps(methods.benchmark_of("large").gathered()))
    table = exam_frontier.table(report)
    mine = table.set_index(["row", "family"]).damage_ratio
    for family in ("neo", "opt"):
        assert mine["constrained-newton, 10 %", family] <= 0.02
        assert mine["constrained-newton, 25 %, written texts", family] <= 0.005
    others = table[table.method.isin(exam_frontier.FIRST_ORDER)]
    assert len(others) == 4
    for row in others.itertuples():
        assert row.damage_ratio > 3 * exam_frontier.frontier_damage(table, row.family, row.share), row.row


def test_every_tuned_value_has_its_neighbours_beside_it() -> None:
    """Of every option the next smaller and the next larger value were tried on the tuning seed, and are no better."""
    report, methods = json.loads((FOLDER / "methods.json").read_text()), script("methods")
    tuned = {row.label: row for row in (*methods.ROWS, *methods.OTHERS) if row.ladders}
    assert {row.share for row in tuned.values()} == {None, 0.1, 0.25, 0.5}
    for (label, row), family in itertools.product(tuned.items(), methods.FAMILIES):
        entry, best = report["rows"][label][family], report["rows"][label][family]["chosen"]
        tried = {tuple(run["options"][name] for name in row.ladders): methods.score(run, row.share) for run in entry["tuning"]}
        assert row.share is None or entry["at_the_end_of_a_ladder"] == []
        for name, ladder in row.ladders.items():
            beside = [value for value in ladder.beside(best[name]) if value is not None]
            assert len(beside) == 2 or ladder.lowest or name in entry["at_the_end_of_a_ladder"]
            assert all(tried[tuple({**best, name: value}.values())] >= tried[tuple(best.values())] for value in beside)


@pytest.mark.parametrize(("start", "far"), [((1.0, 0.01), 30.0), ((300.0, 1.0), 3.0)])
def test_a_search_ends_where_every_neighbour_is_worse(start: tuple[float, float], far: float) -> None:
    tuning = script("tuning")
    ladders = {
        "weight": tuning.Ladder((1.0, 3.0, 10.0, 30.0, 100.0, 300.0), start[0]),
        "rate": tuning.Ladder((0.01, 0.1, 1.0), start[1]),
    }
    known: dict[tuple[float, ...], dict[str, float]] = {}

    def look(place: dict[str, float]) -> dict[str, float] | None:
        return known.get(tuple(place.values()))

    rounds = 0
    while (found := tuning.search(ladders, look, lambda result: result["damage"])).missing:
        assert found.best is None
        known |= {
            tuple(place.values()): {"damage": abs(place["weight"] - far) + abs(place["rate"] - 0.1)} for place in found.missing
        }
        rounds += 1
    assert found.best == {"weight": far, "rate": 0.1}
    assert found.ends == ()
    assert rounds > 1
    assert all((value, 0.1) in known for value in ladders["weight"].beside(far))
    downhill = tuning.search(ladders, lambda place: {"damage": -place["weight"]}, lambda result: result["damage"])
    assert downhill.best["weight"] == 300.0
    assert "weight" in downhill.ends  # and is said to have ended there


def test_the_benchmark_of_methods_runs_from_nothing_to_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At toy size: models, tuning, reported seeds, memory; then it has nothing left to do, and its numbers are those of the texts."""
    methods, rows_of, cells = script("methods"), script("method_rows"), script("equal_forgetting")
    Ladder = script("tuning").Ladder
    monkeypatch.setattr(methods, "_pool", lambda processes: ThreadPoolExecutor(processes))  # saves the import of torch
    setting = cells.Setting(
        model="nano/{family}-s", train=16, forget=3, given=8, unseen=6, compared=6, training=TrainingConfig(2, 1e-3)
    )
    kl = rows_of.held("kl", "gradient-difference", 1e-3, 10.0, retain_loss="kl", retain_batch_size=4, epochs=12)
    kl.ladders.update(learning_rate=Ladder((1e-3,), 1e-3), retain_weight=Ladder((3.0, 10.0, 30.0), 10.0))
    rows = (rows_of.removal("gradient, one step", 1, solver="identity"), rows_of.removal("diagonal", 1, solver="diagonal"), kl)
    benchmark = methods.Benchmark(RunStore(tmp_path / "records"), setting, rows, ("opt",), (0, 1), (0,))
    assert [cell.method for cell in benchmark.missing()][:3] == ["gradient-difference"] * 3  # the others wait for them
    pickle.loads(pickle.dumps((methods._compute, benchmark.missing()[0], benchmark.store, tmp_path)))  # as processes get it
    benchmark.run(1, tmp_path / "models")
    assert benchmark.missing() == []
    methods.write(benchmark, tmp_path / "methods.json")
    gathered, page = json.loads((tmp_path / "methods.json").read_text()), (tmp_path / "methods.md").read_text()
    assert len(gathered["rows"]["kl"]["opt"]["tuning"]) >= 3
    assert "At the end of what was tried: kl, opt: learning_rate" in page
    assert "| diagonal | opt |" in page
    assert [run["written"] for run in gathered["written"]["opt"]] == [640, 640]
    written = sorted((tmp_path / "records").iterdir())
    benchmark.run(1, tmp_path / "models")
    assert sorted((tmp_path / "records").iterdir()) == written
    extra = tmp_path / "records" / "old.json"
    extra.write_text("{}")
    assert benchmark.stale() == [extra]

    here = cells.case(setting, "opt", 0, tmp_path / "models")
    train = here.bench.task.train
    outside = [i for i in range(16) if i not in {*here.forget, *here.given}]
    assert (len(here.forget), len(here.given), len(outside)) == (3, 8, 5)
    result = here.unlearn("fisher-removal", rows[1].options, 0, here.goal["forget"])

    def rise(indices: list[int]) -> float:
        texts = list(train.select(indices))
        losses = [text_losses(model, here.bench.tokenizer, texts).double().mean() for model in (result.model, here.original)]
        return float(losses[0] - losses[1])

    reported = gathered["rows"]["diagonal"]["opt"]["seeds"][0]
    assert reported["damage_ratio"] == pytest.approx(rise(outside) / rise(here.forget), rel=1e-3)
    assert reported["used_damage_ratio"] == pytest.approx(rise(here.given) / rise(here.forget), rel=1e-3)


@pytest.mark.parametrize(("file", "attacks"), [("methods", True), ("methods-large", False)])
def test_the_pages_of_methods_are_those_of_their_records(file: str, attacks: bool) -> None:
    """And what attacks bring back stands in the rows of the models that were attacked, and nowhere else."""
    methods, pages = script("methods"), script("methods_page")
    committed, attacked = (json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")) for name in (file, "attacked"))
    page = (FOLDER / f"{file}.md").read_text(encoding="utf-8")
    assert page == pages.page(committed, methods.WHAT, f"{file}.json", attacked)
    table = [[cell.strip() for cell in line.split("|")] for line in page.splitlines() if line.startswith("| ")]
    head = table[0]
    assert ("relearnt" in head and "back by 4 bits" in head) == attacks
    if not attacks:
        return
    cell = {(row[1], row[2]): row[head.index("relearnt")] for row in table if len(row) == len(head)}
    runs = {(run["family"], run["seed"]): run["numbers"] for run in attacked["rows"]["npo, with KL term, 25 %"]["runs"]}
    for family in ("neo", "opt"):
        lowest = [numbers["relearned"] for (of, _), numbers in runs.items() if of == family]
        assert cell["npo, with KL term, 25 %", family] == f"{sum(lowest) / len(lowest):.3f}"
        assert (
            float(cell["original", family])
            < float(cell["constrained-newton, default", family])
            < float(cell["retraining", family])
        )
    assert cell["newton (CG on Gauss-Newton, 32 texts), one step", "neo"] == ""


def test_the_benchmark_of_attacks_runs_from_nothing_to_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At toy size: an original, a twin and a method are audited, the records are kept, and the page has their means."""
    attacked, cells = script("attacked"), script("equal_forgetting")
    monkeypatch.setattr(attacked, "SETTINGS", attacked.Settings(batch_size=32, relearning_rate=1e-3, relearning_steps=(1, 2)))
    setting = cells.Setting(
        model="nano/{family}-s", train=16, forget=4, given=6, unseen=6, compared=6, training=TrainingConfig(4, 1e-3)
    )
    ascent = {"stop": "calibrate", "epochs": 20, "optimizer": "adam", "step": 1e-4, "retain_limit": None}
    wanted = [
        attacked.Cell("opt", 0, attacked.ORIGINAL, attacked.ORIGINAL, {}, setting),
        attacked.Cell("opt", 0, attacked.TWIN, attacked.TWIN, {}, setting),
        attacked.Cell("opt", 0, "gradient-ascent, Adam", "gradient-ascent", ascent, setting),
    ]
    store = RunStore(tmp_path / "records")
    attacked.run(store, wanted, tmp_path / "models", attacked.Deadline(None))
    assert len(list((tmp_path / "records").iterdir())) == 3
    attacked.run(store, wanted, tmp_path / "models", attacked.Deadline(1e-9))  # nothing is left, so that no time is needed
    found = json.loads(json.dumps(attacked.gathered(store, wanted)))
    numbers = {row: entry["runs"][0]["numbers"] for row, entry in found["rows"].items()}
    assert list(numbers) == [attacked.ORIGINAL, attacked.TWIN, "gradient-ascent, Adam"]
    case = cells.case(setting, "opt", 0, tmp_path / "models")
    assert numbers[attacked.ORIGINAL]["forget_loss"] == pytest.approx(case.before["forget"], rel=1e-5)
    assert numbers[attacked.ORIGINAL]["outside_loss"] == pytest.approx(case.before["retain"], rel=1e-5)
    assert "rounding to 4 bits" not in numbers[attacked.ORIGINAL]  # there is no way back
    assert numbers[attacked.TWIN]["kl_forget"] > 0
    page = attacked.page(found, "attacked")
    assert page.count("\n| gradient-ascent, Adam | 1 | 1 ") == 1
    assert page.splitlines()[-1].count("|") == len(attacked.COLUMNS) + 4


@pytest.mark.parametrize("name", ["attacked", "attacked_again"])
def test_the_committed_table_of_attacks_is_that_of_its_records(name: str) -> None:
    attacked = script("attacked")
    committed = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    cells = list(attacked.cells(numerics=attacked.NUMERICS[name]))
    found = attacked.gathered(attacked.RunStore(attacked.ROOT / "results" / name), cells)
    assert json.loads(json.dumps(found)) == committed
    assert (FOLDER / f"{name}.md").read_text(encoding="utf-8") == attacked.page(committed, name)
    assert set(committed["rows"]) == set(attacked.ROWS)


def test_the_benchmark_of_memorising_runs_to_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At toy size, all variants and the whole command: its shares and ratios are those of the losses beside them."""
    memorising = script("memorising")
    monkeypatch.setattr(memorising, "_pool", lambda processes: ThreadPoolExecutor(processes))  # saves the import of torch
    for name, value in {"TEXTS": 8, "FORGET": 2, "GIVEN": 4, "UNSEEN": 4, "SEEDS": (0,), "MOST_EPOCHS": 2, "WIDTH": 8}.items():
        monkeypatch.setattr(memorising, name, value)
    result = CliRunner().invoke(memorising.main, ["--out", str(tmp_path / "out.json")], catch_exceptions=False)
    assert result.exit_code == 0
    written, committed = (json.loads(path.read_text()) for path in (tmp_path / "out.json", FOLDER / "memorising.json"))
    assert written.keys() == committed.keys()
    (run,) = written["runs"]
    assert run.keys() == committed["runs"][0].keys()
    assert run["variants"].keys() == memorising.VARIANTS.keys() == committed["runs"][0]["variants"].keys()
    for label, entry in run["variants"].items():
        assert entry.keys() >= committed["runs"][0]["variants"][label].keys()
        rise = {name: entry["after"][name] - run["before"][name] for name in run["before"]}
        assert entry["damage_ratio"] == rise["outside"] / rise["forget"]
        assert entry["used_damage_ratio"] == rise["retain"] / rise["forget"]
        assert f"{label}: " in result.output


def test_the_benchmark_of_curvature_runs_to_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At toy size, every part: the same operations as in the committed record, and the same numbers by every way."""
    curvature = script("curvature")
    toy = {"SEQUENCES": 3, "TOKENS": 6, "WIDTH": 8, "LAYERS": 1, "VOCABULARY": 20, "ALGEBRA": (4, 500)}
    for name, value in {**toy, "TRAINED_TEXTS": 2, "MOST_STEPS": 3}.items():
        monkeypatch.setattr(curvature, name, value)
    # factors of a vocabulary of 1024 take seconds each to decompose
    monkeypatch.setattr(curvature, "load_model", lambda name, device: (curvature.opt(device)[0], None))
    short = [Example((5, 6, 7 + i), (5, 6, 7 + i)) for i in range(2)]
    monkeypatch.setattr(curvature, "encode", lambda rows, tokenizer, length: SimpleNamespace(examples=short[: len(rows)]))
    result = CliRunner().invoke(curvature.main, ["--out", str(tmp_path / "out.json")], catch_exceptions=False)
    assert result.exit_code == 0
    written, committed = (json.loads(path.read_text()) for path in (tmp_path / "out.json", FOLDER / "curvature.json"))
    assert written.keys() == committed.keys() - {"curvlinops"}
    for part in ("algebra_n64_P1e6", "products", "solves", "preconditioners"):
        names = [
            [[row.get(key) for key in ("operation", "operator", "preconditioner")] for row in of[part]]
            for of in (written, committed)
        ]
        assert names[0] == names[1]
    for part in ("algebra_n64_P1e6", "products", "solves"):
        for row in written[part]:
            assert row["error_against_float64"] is None or row["error_against_float64"] < 1e-3, row
            assert row["gradients_by_flops"] is None or row["gradients_by_flops"] > 0
    assert all(row["steps"] <= 3 for row in written["preconditioners"])


@pytest.mark.nightly
def test_the_benchmark_of_compiling_runs_to_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At toy size, without a compiler: the same operations as in the committed record, and they are those of the library."""
    compiled, curvature = script("compiled"), script("curvature")
    for name, value in {"SEQUENCES": 3, "TOKENS": 6, "WIDTH": 8, "LAYERS": 1, "VOCABULARY": 20}.items():
        monkeypatch.setattr(curvature, name, value)
    monkeypatch.setattr(compiled, "cases", lambda: {"OPT, random weights": curvature.opt("cpu")})
    monkeypatch.setattr(compiled, "captured_error", lambda model, batch: 0.0)  # takes a minute
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    words = ["--repeats", "1", "--out", str(tmp_path / "out.json")]
    result = CliRunner().invoke(compiled.main, words, catch_exceptions=False)
    assert result.exit_code == 0
    written, committed = (json.loads(path.read_text()) for path in (tmp_path / "out.json", FOLDER / "compiled.json"))
    found, kept = (of["models"]["OPT, random weights"]["operations"] for of in (written, committed))
    assert [row.keys() for row in found] == [row.keys() for row in kept]
    assert [row["operation"] for row in found] == [row["operation"] for row in kept]
    assert all(max(row["plain_error"], row["compiled_error"]) < 1e-4 for row in found)


def test_compiling_does_not_pay() -> None:
    """Hundreds of calls, where a method makes tens; and what is captured under it is wrong."""
    models = json.loads((FOLDER / "compiled.json").read_text())["models"]
    assert models.keys() == {"OPT, random weights", "nano/opt-s"}
    for model in models.values():
        assert model["captured_error"] > 0.01
        for row in model["operations"]:
            assert row["pays_after_calls"] is None or row["pays_after_calls"] > 100
            assert row["plain_error"] < 1e-5
            assert row["compiled_error"] < 1e-2


def test_the_peer_of_the_benchmark_of_curvature_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("curvlinops", reason="curvlinops has an environment of its own, see benchmarks/curvlinops_peer.py")
    curvature = script("curvature")
    for name, value in {"SEQUENCES": 3, "TOKENS": 6, "WIDTH": 8, "LAYERS": 1, "VOCABULARY": 20}.items():
        monkeypatch.setattr(curvature, name, value)
    model, batch = curvature.opt("cpu")
    rows = curvature.peer(sys.executable, model, batch, curvature.batch_gradient(model, batch)[1])
    assert [row["operation"].partition(",")[0] for row in rows] == ["gauss_newton product", "hessian product"]
    assert all(row["error_against_float64"] < 0.1 for row in rows)


def test_the_benchmark_of_scale_runs_to_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At toy size: the parts of a build add up to it, and its bytes are at most those foretold."""
    scale = script("scale")
    kind, sizes = scale.SHAPES["llama-135m"]
    toy = {**sizes, "vocab_size": 50, "hidden_size": 18, "intermediate_size": 24, "num_hidden_layers": 1}
    monkeypatch.setattr(scale, "SHAPES", {"llama-135m": (kind, toy)})
    monkeypatch.setattr(scale, "TOKENS", 18)
    words = ["--shape", "llama-135m", "--texts", "8", "--threads", "1", "--out", str(tmp_path / "out.json")]
    result = CliRunner().invoke(scale.main, words, catch_exceptions=False)
    assert result.exit_code == 0
    for build in json.loads((tmp_path / "out.json").read_text())["llama-135m"]["builds"].values():
        parts = {name: part["seconds"] for name, part in build["parts"].items()}
        assert parts.pop("build") == pytest.approx(sum(parts.values()))
        assert 0 < build["bytes"] <= 1.2 * build["planned_bytes"]


@pytest.mark.nightly
def test_the_benchmark_of_processes_runs_to_its_record(tmp_path: Path) -> None:
    """At toy size: one process does all of the work, and what is planned for a step is of the size of what is counted."""
    sizes = {"hidden_size": 8, "ffn_dim": 16, "layers": 1, "vocab_size": 40, "texts": 4, "tokens": 6}
    words = ["--processes", "1", "--step", "blocks of 48, all layers", "--out", str(tmp_path / "out.json")]
    words += [word for name in ("--shared", "--large") for word in (name, json.dumps(sizes))]
    result = CliRunner().invoke(script("cluster").main, words, catch_exceptions=False)
    assert result.exit_code == 0
    report = json.loads((tmp_path / "out.json").read_text())
    for row in report["shares"]["1"].values():
        assert row["flops_at_most"] == row["flops_of_all"] > 0
        assert row["sent_bytes"] == row["difference"] == 0
    step = report["steps"]["blocks of 48, all layers"]
    assert 0.5 < step["counted_gradients"] / step["planned_gradients"] < 2
    assert step["planned_bytes"] > 0
    assert step["texts"] == 2


def test_steps_on_one_card_are_planned_and_measured(tmp_path: Path) -> None:
    out = tmp_path / "one_card.json"
    small = {"hidden_size": 16, "ffn_dim": 32, "layers": 1, "vocab_size": 50, "texts": 4, "tokens": 8}
    words = ["--device", "cpu", "--shape", json.dumps(small), "--out", str(out)]
    result = CliRunner().invoke(script("one_card").main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (found,) = json.loads(out.read_text())["shapes"].values()
    assert found["gradients"]["texts"] == 2
    assert set(found["steps"]) == {"the whole Fisher by Woodbury", "blocks of 48", "K-FAC"}
    for row in found["steps"].values():
        assert row["changed"] == row["parameters"] == found["gradients"]["parameters"]
        assert 0.5 < row["counted_gradients"] / row["planned_gradients"] < 2


def test_every_script_of_the_benchmarks_is_run_by_a_test() -> None:
    tests = "".join(
        (Path(__file__).parent / f"test_{name}.py").read_text(encoding="utf-8")
        for name in ("benchmarks", "course", "experiments", "real")
    )
    for path in FOLDER.glob("*.py"):
        if "def main(" in path.read_text(encoding="utf-8"):
            assert f'script("{path.stem}")' in tests or path.stem == "curvlinops_peer", path.name


def test_the_ways_it_compares_agree() -> None:
    for row in script("curvature").algebra(8, 5000, "cpu"):
        assert row["error_against_float64"] < 1e-4


def test_the_benchmark_of_inference_runs_from_nothing_to_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At toy size: both attacks are made on every model, the records are kept, and the page has them."""
    inference = script("inference")
    monkeypatch.setattr(inference, "document_audit", partial(inference.document_audit, attack=Attack(trees=20)))
    training = TrainingConfig(4, 3e-3, 4)
    settings = {
        "books": inference.Setting("books", "nano/opt-s", 2, 6, 8, training=training),
        "shadows": inference.Setting("shadows", "nano/opt-s", 4, 4, 4, 4, training=training),
    }
    ascent = {
        "ascent": {
            "method": "gradient-ascent",
            "options": {"step": 1e-3, "epochs": 40, "optimizer": "adam", "stop": "calibrate", "retain_limit": None},
        }
    }
    store = inference.RunStore(tmp_path / "records")
    for setting in settings.values():
        inference.compute(store, setting, 0, ascent, tmp_path / "models", inference.Deadline(None))
        inference.compute(store, setting, 0, ascent, tmp_path / "models", inference.Deadline(1e-9))  # it is there
    assert not any((tmp_path / "models").iterdir())
    found = inference.gathered(store, ascent, settings)
    books, shadows = (found[name]["seeds"]["0"] for name in ("books", "shadows"))
    assert list(books) == [inference.ORIGINAL, inference.RETRAINED, inference.BASE, "ascent"]
    assert books[inference.ORIGINAL]["forget_loss"] < books[inference.RETRAINED]["forget_loss"]
    assert books["ascent"]["forget_loss"] == pytest.approx(books[inference.RETRAINED]["forget_loss"], rel=0.05)
    assert all(0 <= row[name] <= 1 for row in books.values() for name in ("loss", "documents", "members"))
    assert "shadows" not in shadows[inference.RETRAINED]
    assert all(0 <= shadows["ascent"][name] <= 1 for name in ("shadows", "control"))
    assert (
        books["ascent"]["gradients"] % 6 == shadows["ascent"]["gradients"] % 4 == 0
    )  # 2 books of 3 sequences, and 4 questions
    heroes = [re.findall(r"(\w+ \w+) had grown up", text)[0] for text in inference.different_books(0, 60)]
    assert len(set(heroes)) == 60
    page = inference.page(found)
    assert page.count("| ascent |") == 2
    assert f"| {books['ascent']['forget_loss']:.2f} |" in page


def test_the_committed_page_of_inference_is_that_of_its_records() -> None:
    inference = script("inference")
    committed = json.loads((FOLDER / "inference.json").read_text(encoding="utf-8"))
    assert inference.gathered(inference._store(), inference.tuned()) == committed
    assert (FOLDER / "inference.md").read_text(encoding="utf-8") == inference.page(committed)
    assert {name: set(entry["seeds"]) for name, entry in committed.items()} == {
        name: {"0", "1", "2"} for name in inference.SETTINGS
    }
