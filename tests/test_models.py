import hashlib
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from unlearn_lib import HubUnavailableError, InputError, load_model, save_model
from unlearn_lib.models import nano

FLOATS = {"neo": "GPTNeoForCausalLM", "opt": "OPTForCausalLM"}


@pytest.mark.parametrize("name", nano.SPECS)
def test_embedded_models_load_ready_for_curvature(name: str) -> None:
    model, tokenizer = load_model(name, device="cpu")
    assert type(model).__name__ == FLOATS[nano.SPECS[name].family]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == "eager"
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) == nano.RECIPE.manifest()["models"][name]["parameters"]
    out = model.generate(**tokenizer("Question: What", return_tensors="pt"), max_new_tokens=3, do_sample=False)
    assert out.shape[1] > 4


def test_manifest_holds_the_hash_of_every_file() -> None:
    files = {
        path.relative_to(nano.FOLDER).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in nano.FOLDER.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    assert files == nano.RECIPE.manifest()["files"]
    assert not [name for name in files if not name.endswith((".json", ".safetensors"))], "no pickles, no code"
    assert sum(path.stat().st_size for path in nano.FOLDER.rglob("*") if path.is_file()) <= 17e6


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_number_formats(dtype: str) -> None:
    model, _ = load_model("nano/opt-s", device="cpu", dtype=dtype)
    assert next(model.parameters()).dtype == getattr(torch, dtype)


def test_saved_models_load_with_plain_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = load_model("nano/neo-s", device="cpu")
    save_model(model, tokenizer, tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")("a map")["input_ids"] == tokenizer("a map")["input_ids"]
    assert not list((tmp_path / "saved").glob("*.bin"))
    mine, _ = load_model(tmp_path / "saved", device="cpu")
    assert mine.config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nano/opt-xl", {}, "unknown embedded model 'nano/opt-xl'; choose one of: nano/neo-s, nano/neo-m"),
        ("nano/opt-s", {"dtype": "float16"}, "unknown dtype 'float16'; choose one of: float32, float64, bfloat16"),
        ("nano/opt-s", {"device": "tpu9"}, "unknown device 'tpu9'"),
        ("what is this?", {}, "'what is this.' is neither a folder nor a valid hub name; embedded models are nano/neo-s"),
        ("./no/such/folder", {}, "there is no model folder ./no/such/folder; embedded models are: nano/neo-s"),
    ],
)
def test_unknown_names_list_the_valid_ones(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(name, **options)


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "opt"}))
    with pytest.raises(InputError, match="cannot be loaded"):
        load_model(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_missing_gpu_is_said() -> None:
    with pytest.raises(InputError, match="torch sees no CUDA device here"):
        load_model("nano/opt-s", device="cuda")


def test_no_network_is_one_clear_error_within_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    from transformers import AutoModelForCausalLM  # noqa: F401  (its import is not part of the call's second)

    start = time.perf_counter()
    with pytest.raises(HubUnavailableError, match=r"model 'facebook/opt-125m' is no folder here.*nano/neo-s"):
        load_model("facebook/opt-125m")
    assert time.perf_counter() - start < 1
