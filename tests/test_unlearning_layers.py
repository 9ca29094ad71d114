"""The form "eul": what its folder holds, that the same model comes back, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from test_bottlenecks import IDS, learn, logits

from unlearn_lib import load_model, save_model, unlearn
from unlearn_lib.command.cli import main
from unlearn_lib.data.files import write_rows
from unlearn_lib.errors import InputError
from unlearn_lib.models.bottlenecks import Shape
from unlearn_lib.models.unlearning_layers import add_stage, layer_weights, without_layers
from unlearn_lib.service.removal import RemovalService

FILES = {"tokenizer.json", "tokenizer_config.json", "unlearn_form.json", "unlearning_layers.safetensors"}


@pytest.fixture
def saved_base(tiny: Any, tokenizer: Any, tmp_path: Path) -> Path:
    save_model(tiny("neo"), tokenizer, tmp_path / "plain")
    return tmp_path / "plain"


def layered(base: str | Path, dtype: str = "float64", stages: int = 1) -> tuple[Any, Any]:
    model, tokenizer = load_model(base, device="cpu", dtype=dtype)
    for number in range(stages):
        add_stage(model, Shape(bottleneck=3 + number, activation="gelu"))
        learn(model, number)
    for name, p in model.named_parameters():
        p.data = p.data.to(model.dtype) if name in layer_weights(model) else p.data
    return model, tokenizer


def form_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "unlearn_form.json").read_text())
    return found


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("base", ["nano/opt-s", "saved"])
def test_the_layers_alone_are_saved_and_the_same_model_comes_back(
    base: str, dtype: str, saved_base: Path, tmp_path: Path
) -> None:
    model, tokenizer = layered(saved_base if base == "saved" else base, dtype, stages=2)
    save_model(model, tokenizer, tmp_path / "out")
    rounded = dtype == "bfloat16"  # and no longer what lies under its name
    assert {path.name for path in (tmp_path / "out").iterdir()} == (FILES | {"base"} if rounded else FILES)
    name = str(saved_base) if base == "saved" else base
    assert form_of(tmp_path / "out")["base"] == ("./base" if rounded else name)
    again, _ = load_model(tmp_path / "out", device="cpu", dtype=dtype)
    assert torch.equal(logits(again), logits(model))
    assert again.stages == model.stages
    assert not again.training
    for greedy in ({"use_cache": True}, {"use_cache": False}):
        settings = {"attention_mask": torch.ones_like(IDS), "max_new_tokens": 4, "do_sample": False, **greedy}
        assert torch.equal(again.generate(IDS, **settings), model.generate(IDS, **settings))


def test_a_base_that_was_trained_since_is_saved_with_them(saved_base: Path, tmp_path: Path) -> None:
    model, tokenizer = layered(saved_base)
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    save_model(model, tokenizer, tmp_path / "here")
    assert form_of(tmp_path / "here")["base"] == "./base"
    (tmp_path / "here").rename(tmp_path / "there")
    again, _ = load_model(tmp_path / "there", device="cpu", dtype="float64")
    assert torch.equal(logits(again), logits(model))
    plain, _ = load_model(tmp_path / "there" / "base", device="cpu", dtype="float64")
    assert torch.equal(logits(plain), logits(without_layers(model)))
    # what comes from the folder is written into it again as what it is
    save_model(again, tokenizer, tmp_path / "there")
    assert form_of(tmp_path / "there")["base"] == "./base"
    assert torch.equal(logits(load_model(tmp_path / "there", device="cpu", dtype="float64")[0]), logits(again))


def test_a_base_that_was_never_saved_is_saved_with_them(tiny: Any, tokenizer: Any, tmp_path: Path, fingerprint: Any) -> None:
    model = tiny("opt")
    add_stage(model, Shape())
    learn(model)
    save_model(model, tokenizer, tmp_path / "out")
    again, _ = load_model(tmp_path / "out", device="cpu", dtype="float64")
    assert fingerprint(again) == fingerprint(model)
    assert fingerprint(without_layers(again)) == fingerprint(tiny("opt"))
    assert type(without_layers(again)) is type(tiny("opt"))


def test_an_adapter_can_be_the_base(saved_base: Path, texts: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base, tokenizer = load_model(saved_base, device="cpu", dtype="float64")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "c_fc", "c_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = peft.get_peft_model(base, config).double().eval()
    model = unlearn(adapted, tokenizer, forget=texts[:3], retain=texts[3:6], method="eul", epochs=2, learning_rate=0.1).model
    assert not torch.allclose(logits(model), logits(adapted), rtol=1e-2)
    save_model(model, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out" / "base" / "model.safetensors").exists()  # the adapter alone
    again, _ = load_model(tmp_path / "out", device="cpu", dtype="float64")
    torch.testing.assert_close(logits(again), logits(model), rtol=0, atol=1e-6 * float(logits(model).abs().max()))
    assert [name for name, p in without_layers(again).named_parameters() if p.requires_grad] == [
        name for name, p in adapted.named_parameters() if p.requires_grad
    ]


def test_a_plain_model_takes_the_place_of_a_form(saved_base: Path, tmp_path: Path) -> None:
    model, tokenizer = layered(saved_base)
    save_model(model, tokenizer, tmp_path / "out")
    save_model(without_layers(model), tokenizer, tmp_path / "out")
    assert torch.equal(logits(load_model(tmp_path / "out", device="cpu", dtype="float64")[0]), logits(without_layers(model)))


def test_a_folder_that_does_not_fit_is_refused(saved_base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model, tokenizer = layered(saved_base)
    folder = tmp_path / "out"
    save_model(model, tokenizer, folder)
    said, file = form_of(folder), folder / "unlearning_layers.safetensors"

    def refused(message: str, **changes: Any) -> None:
        (folder / "unlearn_form.json").write_text(json.dumps({**said, **changes}))
        with pytest.raises(InputError, match=message):
            load_model(folder, device="cpu")

    refused("does not describe unlearning layers", stages=None)
    refused("does not describe unlearning layers", stages=[{"bottleneck": 0}])
    refused("does not describe unlearning layers", stages=[{"nobody": 0}])
    refused("16 of the layers' weights are missing, of another shape", stages=[{"bottleneck": 3, "activation": "relu"}] * 2)
    refused("12 of the layers' weights are missing, of another shape", stages=[{"bottleneck": 4}])
    refused("for the model nowhere/at/all, which cannot be loaded", base="nowhere/at/all")
    weights = load_file(file)
    weights.pop(next(iter(weights)))
    save_file(weights, file)
    refused("1 of the layers' weights are missing")
    file.write_bytes(b"no tensors")
    refused(f"the model in {folder} cannot be loaded")


def test_the_command_writes_the_form_and_takes_it(saved_base: Path, texts: list[dict[str, str]], tmp_path: Path) -> None:
    for name, part in (("forget", slice(0, 3)), ("retain", slice(3, 9))):
        (tmp_path / f"{name}.jsonl").write_text(write_rows(texts[part]), encoding="utf-8")

    def run(model: str, out: str, *words: str) -> None:
        files = [word for name in ("forget", "retain") for word in (f"--{name}", str(tmp_path / f"{name}.jsonl"))]
        asked = ["run", "--model", model, *files, "--method", "eul", "--out", str(tmp_path / out), "--device", "cpu", *words]
        done = CliRunner().invoke(main, [*asked, "--set", "epochs=1"])
        assert done.exit_code == 0, done.output

    run("nano/neo-s", "one")
    assert form_of(tmp_path / "one" / "model")["base"] == "nano/neo-s"
    run(str(tmp_path / "one" / "model"), "two")
    again, _ = load_model(tmp_path / "two" / "model", device="cpu")
    assert len(again.stages) == 2
    assert form_of(tmp_path / "two" / "model")["base"] == "nano/neo-s"
    run("nano/neo-s", "narrow", "--dtype", "bfloat16")  # no longer the weights of that name
    assert form_of(tmp_path / "narrow" / "model")["base"] == "./base"
    assert load_model(tmp_path / "narrow" / "model", device="cpu", dtype="bfloat16")[0].dtype == torch.bfloat16


def test_a_service_deletes_no_model_that_another_needs(tiny: Any, tokenizer: Any, texts: Any, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"method": "eul", "epochs": 1, "capacity": 2}
    service = RemovalService.create(tmp_path / "service", tiny(dtype=torch.float32), tokenizer, retain=texts[:12], **asked)
    service.request(texts[:2])
    service.request(texts[2:4])
    assert service.cycle == 2
    (folder,) = (tmp_path / "service").glob("model-*")
    assert len(load_model(folder, device="cpu")[0].stages) == 2
