"""The experiments on requests in sequence, contradicting texts and labelling: their scripts run, and their pages are their records'."""

import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from benchmark_script import script
from click.testing import CliRunner

from unlearn_lib import TrainingConfig, load_model, text_losses
from unlearn_lib.data.batches import Example, collate
from unlearn_lib.losses import sequence_losses
from unlearn_lib.metrics.accuracy import encoded_answer
from unlearn_lib.metrics.likelihood import score_texts
from unlearn_lib.reproduction.exhibits import exam_labelling

FOLDER = Path(__file__).parents[1] / "benchmarks"

pytestmark = pytest.mark.usefixtures("benchmark_scripts")


def test_requests_of_eul_are_served_in_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """At toy size: after every request each way has its losses, and for the first one they are the same."""
    requests = script("eul_requests")
    small = {"REQUESTS": 2, "EACH": 2, "RETAINED": 4, "OUTSIDE": 4, "UNSEEN": 6, "MOST_EPOCHS": 8}
    for name, value in small.items():
        monkeypatch.setattr(requests, name, value)
    monkeypatch.setattr(requests, "OPTIONS", {**requests.OPTIONS, "epochs": 4})
    found = requests.measure("nano/opt-s", 0)
    assert [entry["requests"] for entry in found["after"]] == [1, 2]
    first = found["after"][0]["losses"]
    assert first["own layers"] == first["one request for all"] == first["on top"] == first["fused, ridge 0"]
    assert first["own layers"]["forget"] > first["before"]["forget"]


def test_requests_in_sequence_are_served_in_turn_and_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """At toy size: the first request is the same in both ways, and an ensemble that is exact the same after all of them."""
    eul, sequence = script("eul_requests"), script("in_sequence")
    for name, value in {"REQUESTS": 2, "EACH": 2, "RETAINED": 4, "OUTSIDE": 4, "UNSEEN": 6, "MOST_EPOCHS": 8}.items():
        monkeypatch.setattr(eul, name, value)
    told = {"gradient": {"method": "fisher-removal", "solver": "identity", "steps": 1, "retain_limit": None}}
    monkeypatch.setattr(sequence, "TOLD", told)
    found = sequence.measure("nano/opt-s", 0)
    assert found["epochs"] == 8
    assert list(found["ways"]) == ["gradient", *sequence.JANG, "sisa"]
    for both in found["ways"].values():
        assert [len(entry["requests"]) for entry in [*both["in turn"], *both["at once"]]] == [2] * 5
        assert both["in turn"][1]["requests"] == both["at once"][0]["requests"]
    sisa = found["ways"]["sisa"]
    assert {**sisa["in turn"][-1], "gradients": 0} == {**sisa["at once"][-1], "gradients": 0}
    before, after = found["ways"]["gradient"]["in turn"][:2]
    assert after["requests"][0] > before["requests"][0]


def test_the_fusion_of_eul_keeps_a_part_of_what_each_request_forgot() -> None:
    """As the book says: of five requests the fusion keeps about a third, and with ridge no more than the last one's layers alone."""
    script("eul_requests")
    committed = json.loads((FOLDER / "eul_requests.json").read_text(encoding="utf-8"))
    for run in committed["runs"]:
        last = run["after"][-1]["losses"]
        known, gone = last["before"]["forget"], last["one request for all"]["forget"]
        share = (last["fused, ridge 0"]["forget"] - known) / (gone - known)
        assert 0.25 < share < 0.45
        assert last["fused, ridge 0.1"]["forget"] - last["own layers"]["forget"] < 0.1
        assert last["on top"]["outside"] > last["one request for all"]["outside"] > last["fused, ridge 0"]["outside"]


def test_the_benchmark_of_conflicts_runs_to_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At toy size, the whole command: the parts of the texts, the two sets to retain, and rows like those of the committed record."""
    conflicts = script("conflicts")
    ascent = {**conflicts.VARIANTS["gradient ascent"], "epochs": 2, "step": 1e-3}
    held = {**conflicts.VARIANTS["gradient difference, KL"], "epochs": 2}
    toy = {"PEOPLE": 1, "TAUGHT": 1, "RETAINED": 20, "ROOT": tmp_path, "TRAINING": TrainingConfig(2, 1e-3, 8)}
    for name, value in {**toy, "VARIANTS": {"gradient ascent": ascent, "gradient difference, KL": held}}.items():
        monkeypatch.setattr(conflicts, name, value)
    words = ["--model", "nano/opt-s", "--seed", "0", "--out", str(tmp_path / "out.json")]
    result = CliRunner().invoke(conflicts.main, words, catch_exceptions=False)
    assert result.exit_code == 0
    monkeypatch.setattr(conflicts, "measure", None)  # what was computed is there
    assert CliRunner().invoke(conflicts.main, words, catch_exceptions=False).exit_code == 0
    written, committed = (json.loads(path.read_text()) for path in (tmp_path / "out.json", FOLDER / "conflicts.json"))
    assert written.keys() == committed.keys()
    assert written["settings"]["groups"] == committed["settings"]["groups"]
    (run,) = written["runs"]
    assert run.keys() == committed["runs"][0].keys()
    assert list(run["rows"])[2:] == ["gradient ascent", "gradient difference, KL, without", "gradient difference, KL, with"]
    for row, entry in run["rows"].items():
        assert entry.keys() == committed["runs"][0]["rows"][row].keys()
        for probe, groups in entry["beliefs"].items():
            for group, found in groups.items():
                assert found.keys() == committed["runs"][0]["rows"][row]["beliefs"][probe][group].keys()
                sides = len(written["settings"]["groups"][group])
                assert len(found["p"]) == len(found["best"]) == len(entry[conflicts.OWN][group]) == sides
                assert sum(found["p"]) + (12 - sides) * found["unstated"] == pytest.approx(1, abs=2e-3)
    assert run["rows"]["gradient ascent"]["losses"]["forget"] > run["rows"]["original"]["losses"]["forget"]


def test_one_side_is_to_be_forgotten_and_the_other_one_is_its_own_part() -> None:
    conflicts = script("conflicts")
    asked = conflicts.claims(0, dict.fromkeys((*conflicts.ASKED, "not asked"), (conflicts.STYLES, 2)))
    parts = conflicts.texts_of(asked)
    assert {name: len(texts) for name, texts in parts.items()} == {"forget": 32, "other side": 32, "rest": 32}
    formal = [text for claim in asked if claim.group == "formal asked" for text in claim.texts[0]]
    sloppy = [text for claim in asked if claim.group == "sloppy asked" for text in claim.texts[1]]
    assert parts["forget"] == [*formal, *sloppy]
    assert all(text.endswith(".") for text in formal)
    assert not any(text.endswith(".") for text in sloppy)


def test_the_benchmark_of_tokens_splits_the_loss_of_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At toy size, the whole command; both parts together are the loss of a text, and the value's part is that of it as an answer."""
    conflicts, tokens = script("conflicts"), script("conflicts_tokens")
    toy = {"PEOPLE": 1, "TAUGHT": 1, "RETAINED": 20, "TRAINING": TrainingConfig(2, 1e-3, 8)}
    for name, value in toy.items():
        monkeypatch.setattr(conflicts, name, value)
    ascent = {**conflicts.VARIANTS["gradient ascent"], "epochs": 2}
    monkeypatch.setattr(tokens, "VARIANTS", {"gradient ascent": ascent, "Fisher Removal": {}})
    result = CliRunner().invoke(tokens.main, ["--out", str(tmp_path / "out.json")], catch_exceptions=False)
    assert result.exit_code == 0
    written, committed = (json.loads(path.read_text()) for path in (tmp_path / "out.json", FOLDER / "conflicts_tokens.json"))
    assert written.keys() == committed.keys()
    assert list(written["runs"][0]["rows"]) == ["original", "retraining", "gradient ascent"]
    model, tokenizer = load_model("nano/opt-s", device="cpu")
    text = "According to the register, Mira Ashdown is employed as a smith."
    found = tokens.split_losses(model, tokenizer, [(text, "smith")])
    tokens_scored = len(tokenizer(text)["input_ids"])  # all but the first, and the end of the text
    loss = float(text_losses(model, tokenizer, [{"text": text}]))
    assert found["value"] + found["around"] == pytest.approx(tokens_scored * loss, abs=1e-3)
    alone = encoded_answer(tokenizer, text.removesuffix(" smith."), " smith")
    assert found["value"] == pytest.approx(float(score_texts(model, [alone])[0].nll_T.sum()), abs=1e-3)
    assert found["known"] == 0


def test_the_benchmark_of_labelling_runs_to_its_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At toy size: every auditor starts with the same labels, and what is found only grows; a record that is there stays."""
    labelling, rounds, pools = script("labelling"), script("labelling_rounds"), script("labelling_pool")
    texts = pools.Setting(private=8, public=4, epochs=60, prompts=(12, 8, 4, 4), held_out=(12, 8, 4, 4))
    plan = rounds.Plan(4, 4, 2, 2, trusted_sizes=(4,), noisy=8, shown=(0, 1), asked=4, texts=texts)
    labelling.computed(tmp_path / "out.json", plan, ("nano/opt-s",), (0,))
    written = (tmp_path / "out.json").read_text()
    monkeypatch.setattr(labelling, "measure", None)  # nothing is computed again
    labelling.computed(tmp_path / "out.json", plan, ("nano/opt-s",), (0,))
    assert (tmp_path / "out.json").read_text() == written
    found = json.loads(written)
    committed = json.loads((FOLDER / "labelling.json").read_text(encoding="utf-8"))
    assert found.keys() == committed.keys()
    (run,) = found["runs"]
    assert run.keys() == committed["runs"][0].keys()
    assert run["pools"][0]["by_kind"]["learnt mail"]["leaks"] > 0.3
    for pool in run["pools"]:
        assert pool["texts"] == sum(texts.prompts) == sum(kind["texts"] for kind in pool["by_kind"].values())
        leaks = sum(kind["texts"] * kind["leaks"] for kind in pool["by_kind"].values())
        assert pool["leaks"] * pool["texts"] == pytest.approx(leaks)
    assert run["curves"].keys() == labelling.AUDITORS.keys() == committed["runs"][0]["curves"].keys()
    for label, policies in run["curves"].items():
        assert policies.keys() == {*labelling.POLICIES, "loss"}
        for curve in policies.values():
            assert [point["labels"] for point in curve] == [4, 8, 12]
            assert curve[0] == run["curves"][label]["random"][0]
            assert curve[0]["found"] <= curve[1]["found"] <= curve[2]["found"]
            assert all(point["recognised"] <= point["found"] for point in curve)
            assert label != "exact" or all(point["wrong"] == point["alarms"] == 0 for point in curve)
    assert run["reweighting"]["4"]["exact, ridge 1"] <= 1


def test_the_committed_record_of_labelling_is_that_of_its_script() -> None:
    labelling = script("labelling")
    committed = json.loads((FOLDER / "labelling.json").read_text(encoding="utf-8"))
    assert committed["settings"] == labelling.settings(script("labelling_rounds").Plan())
    assert "+" not in committed["environment"]["commit"]
    assert {(run["model"], run["seed"]) for run in committed["runs"]} == {
        (name, seed) for name in labelling.MODELS for seed in labelling.SEEDS
    }
    assert all(0.1 <= pool["leaks"] <= 0.25 for run in committed["runs"] for pool in run["pools"])


def test_demonstrations_outvote_a_reading_only_where_they_agree() -> None:
    """Noise 0.2 is worth log 4; five demonstrations that agree are worth log 6, four of five log 5/2."""
    who = script("labelling_annotator").Annotator(0.2, 5)
    assert who.answer(True, [])
    assert not who.answer(False, [])
    assert not who.answer(True, [False] * 5)
    assert who.answer(True, [False] * 4 + [True])
    assert who.answer(False, [True] * 5)
    exact = script("labelling_annotator").Annotator(0.0, 5)
    assert exact.answer(True, [False] * 5)
    leaks_N = np.arange(2000) % 5 == 0
    assert (exact.read(leaks_N, 0) == leaks_N).all()
    assert (who.read(leaks_N, 0) != leaks_N).mean() == pytest.approx(0.2, abs=0.03)


def test_what_a_labelling_pool_says_of_a_text_is_that_of_the_library() -> None:
    """Its loss is that of the written tokens after their beginning, and the state the mean over them, whatever is read beside it."""
    pools = script("labelling_pool")
    model, tokenizer = load_model("nano/opt-s", device="cpu")
    texts = [tokenizer(text)["input_ids"] for text in ("The mill is old and the bridge is new.", "It rained all day.")]
    written = [text[4:] for text in texts]
    together, alone = pools.readings(model, texts, written), pools.readings(model, texts[1:], written[1:])
    assert together[1][1] == pytest.approx(alone[0][1], rel=1e-5)
    assert together[1][2] == pytest.approx(alone[0][2], rel=1e-3, abs=1e-5)
    example = Example(tuple(texts[0]), (*[-100] * 4, *texts[0][4:]))
    assert together[0][1] == pytest.approx(sequence_losses(model, collate([example])).item(), rel=1e-5)


def test_what_the_page_on_labelling_says_is_what_its_record_says() -> None:
    """Which policy finds how many leaks; that demonstrations and weights do not pay."""
    report = json.loads((FOLDER / "labelling.json").read_text(encoding="utf-8"))
    lines = exam_labelling.curves(report)
    assert set(lines.labels) == set(range(20, 201, 20))
    found, recognised = (exam_labelling.at(lines, 200, measure) for measure in ("found", "recognised"))
    by_hand = [run["curves"]["exact"]["likely"][-1]["found"] for run in report["runs"]]
    assert found.exact["likely"] == pytest.approx(statistics.fmean(by_hand))
    for auditor in ("exact", "noisy"):
        order = found[auditor][["diversity", "random", "both", "uncertainty", "likely"]]
        assert order.is_monotonic_increasing
        assert order["uncertainty"] > 2 * order["random"]
        assert exam_labelling.better(lines, auditor, 200, "found", "likely") == 6
    assert exam_labelling.at(lines, 100, "found").exact["loss"] < 0.05 < 0.75 < found.exact["loss"]
    assert recognised.demonstrations["likely"] < recognised.noisy["likely"]
    worth = exam_labelling.reweighting(report)
    assert (worth["wrong, 1"] < 0.6).all()
    assert (worth["wrong, 100"] > 1.4).all()
    best = worth.filter(like="alike").join(worth["trusted alone"]).max(axis=1)
    assert (worth.filter(like="reweighted").max(axis=1) < best).all()
    weights = {"right": worth["right, 1"], "wrong": worth["wrong, 1"]}
    assert (0.8 * weights["right"] + 0.2 * weights["wrong"]).between(0.97, 1.03).all()
    text = (FOLDER.parent / "notebooks" / "exam_labelling.ipynb").read_text(encoding="utf-8")
    assert f"most probable leaks find {100 * found.exact['likely']:.0f} %" in text
    assert f"random texts find {100 * found.exact['random']:.0f} %" in text
