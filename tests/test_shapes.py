"""Plans for models that are not here: made from the shape alone, and the same as those of the model itself."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from torch._subclasses.fake_tensor import FakeTensor

from unlearn_lib import HubUnavailableError, InputError, load_model, unlearn
from unlearn_lib.command.cli import main
from unlearn_lib.curvature import confirm
from unlearn_lib.data.files import write_rows
from unlearn_lib.models import nano
from unlearn_lib.models.published import PUBLISHED
from unlearn_lib.models.shapes import load_for_plan, load_shape, weights_are_here
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import prepare

SETS = {"forget": slice(0, 5), "retain": slice(5, 24), "holdout": slice(24, 40)}
PARAMETERS = {
    "EleutherAI/gpt-neo-125m": 125_198_592,
    "EleutherAI/gpt-neo-1.3B": 1_315_575_808,
    "EleutherAI/gpt-neo-2.7B": 2_651_307_520,
    "facebook/opt-125m": 125_239_296,
    "facebook/opt-1.3b": 1_315_758_080,
    "facebook/opt-2.7b": 2_651_596_800,
}
# one method for each way to plan
CHOICES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("fisher-removal", {}),
    ("fisher-removal", {"solver": "block"}),
    ("fisher-removal", {"preset": "paper"}),
    ("newton", {}),
    ("npo", {}),
    ("retrain", {}),
)


@pytest.fixture(autouse=True)
def nothing_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans count the first comparison of a class of model, whatever other tests of this process have computed."""
    monkeypatch.setattr(confirm, "_confirmed", set())


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache of a machine that has loaded nothing yet."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def outline(name: str, folder: Path, tokenizer: Any = None) -> Path:
    """An embedded model's configuration in a folder, and no weights."""
    nano.config(nano.SPECS[name]).save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder


def plan(model: str | Path, place: Path, *words: str) -> Result:
    files = [word for name in SETS for word in (f"--{name}", str(place / f"{name}.jsonl"))]
    return CliRunner().invoke(main, ["run", "--model", str(model), *files, "--plan", "--device", "cpu", *words])


@pytest.fixture
def place(tmp_path: Path, texts: list[dict[str, str]]) -> Path:
    for name, part in SETS.items():
        (tmp_path / f"{name}.jsonl").write_text(write_rows(texts[part]), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_have_the_published_number_of_parameters(name: str) -> None:
    model = load_shape(name).model
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    assert all(isinstance(p, FakeTensor) for p in model.parameters())


@pytest.mark.parametrize("name", ["nano/opt-s", pytest.param("nano/neo-s", marks=pytest.mark.nightly)])
def test_the_plan_from_the_shape_is_that_of_the_model(
    name: str, tmp_path: Path, tokenizer: Any, texts: list[dict[str, str]]
) -> None:
    found = load_for_plan(str(outline(name, tmp_path / "model", tokenizer)))
    assert found.notes == []
    rows = {key: texts[part] for key, part in SETS.items()}
    for method, options in CHOICES:
        needs = []
        for model in (load_model(name, device="cpu")[0], found.model):
            asked: dict[str, Any] = {**rows, "base": "none", "method": method, "options": options}
            prepared = prepare(model, found.tokenizer, Request(**asked, max_length=20, batch_size=32))
            needs.append(prepared.method.plan(model, prepared.inputs))
        assert needs[0] == needs[1], (method, options)


def test_the_printed_plan_differs_in_where_the_model_is_and_in_nothing_else(place: Path, tokenizer: Any) -> None:
    outline("nano/opt-s", place / "model", tokenizer)
    here, shape = (plan(model, place, "--max-length", "40") for model in ("nano/opt-s", place / "model"))
    assert (here.exit_code, shape.exit_code) == (0, 0), shape.output
    assert here.stdout.splitlines()[1:] == shape.stdout.splitlines()[1:]
    assert here.stdout.splitlines()[0].endswith("trainable parameters, on cpu")
    assert shape.stdout.splitlines()[0].endswith("trainable parameters, by its shape alone, without weights")
    parameters = sum(p.numel() for p in load_shape(str(place / "model")).model.parameters())
    assert f"the model's own {4 * parameters / 2**20:,.0f} MiB (float32)" in shape.stdout


def test_without_a_tokenizer_every_text_counts_in_full(place: Path, texts: list[dict[str, str]]) -> None:
    outline("nano/neo-s", place / "model")
    (place / "retain.jsonl").write_text(write_rows([*texts[SETS["retain"]], texts[0]]))
    for words, length in (((), nano.CONTEXT), (("--max-length", "50"), 50)):
        result = plan(place / "model", place, *words)
        assert result.exit_code == 0, result.output
        assert f"texts: 5 to forget ({5 * length:,} tokens), 19 to retain, 16 held out" in result.stdout
        notes = [line for line in result.stdout.splitlines() if line.startswith("note: ")]
        assert notes == [
            f"note: no tokenizer is at hand, so every text counts as {length} tokens (--max-length)",
            "note: 1 retain texts are exact duplicates of forget texts and were dropped from the retain set",
        ]


def test_one_of_the_papers_models_without_anything_at_hand(place: Path) -> None:
    result = plan("facebook/opt-125m", place, "--max-length", "32", "--set", "terms=8")
    assert result.exit_code == 0, result.output
    assert "facebook/opt-125m, 125,239,296 trainable parameters, by its shape alone" in result.stdout
    assert f"with the model's own {4 * 125_239_296 / 2**20:,.0f} MiB (float32)" in result.stdout
    assert "note: the shape of facebook/opt-125m is the published one that comes with unlearn_lib" in result.stdout
    assert "note: no tokenizer is at hand, so every text counts as 32 tokens" in result.stdout


def test_a_cached_configuration_comes_before_the_table(empty_cache: Path) -> None:
    name, repository = "facebook/opt-125m", empty_cache / "models--facebook--opt-125m"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    outline("nano/opt-s", repository / "snapshots" / ("0" * 40))
    assert not weights_are_here(name)
    found = load_for_plan(name)
    assert (found.model.config.hidden_size, found.notes) == (nano.SPECS["nano/opt-s"].width, [])
    (repository / "snapshots" / ("0" * 40) / "model.safetensors").touch()
    assert weights_are_here(name)


def test_an_adapter_on_a_base_without_weights(tmp_path: Path, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    peft = pytest.importorskip("peft")
    base = outline("nano/opt-s", tmp_path / "base", tokenizer)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "fc1"])
    whole = peft.get_peft_model(load_model("nano/opt-s", device="cpu")[0], config)
    whole.peft_config["default"].base_model_name_or_path = str(base)
    whole.save_pretrained(tmp_path / "adapter")
    found = load_for_plan(str(tmp_path / "adapter"))
    needs = []
    for model in (whole.eval(), found.model):
        prepared = prepare(model, tokenizer, Request(**{key: texts[part] for key, part in SETS.items()}, max_length=20))
        needs.append(prepared.method.plan(model, prepared.inputs))
    assert needs[0] == needs[1]


def test_refusals(tmp_path: Path, tiny: Any, texts: list[dict[str, str]]) -> None:
    with pytest.raises(HubUnavailableError, match=r"the local cache holds no config\.json of it.*facebook/opt-2\.7b"):
        load_for_plan("facebook/opt-6.7b")
    with pytest.raises(InputError, match=r"there is no model folder \./nowhere"):
        load_for_plan("./nowhere")
    with pytest.raises(InputError, match=r"holds no config\.json"):
        load_for_plan(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "oblivion"}))
    with pytest.raises(InputError, match=r"the configuration of .* cannot be read"):
        load_for_plan(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(InputError, match="is not that of a causal language model"):
        load_for_plan(str(tmp_path))
    with pytest.raises(InputError, match="texts cannot be encoded without the model's tokenizer"):
        unlearn(tiny(), None, forget=texts, method="gradient-ascent")
