"""Settings that others wrote (model folders, adapters, records, parameters): used, or refused in one sentence, whatever they hold."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzz import fuzz, inputs, json_texts, memory, outcome, spoiled
from hypothesis import strategies as st

from unlearn_lib.command.run import parse_options
from unlearn_lib.errors import InputError
from unlearn_lib.methods import METHODS, choose
from unlearn_lib.models.adapters import adapter_settings
from unlearn_lib.models.load import load_model, save_model
from unlearn_lib.reproduction.book import notebooks
from unlearn_lib.reproduction.runs.store import RunStore


def edited(settings: dict[str, Any]) -> st.SearchStrategy[bytes]:
    """The settings with some of the values replaced by any JSON, and then with spoiled bytes, or something else altogether."""
    names = list(settings)

    def put(changes: list[tuple[str, str]]) -> bytes:
        texts = {name: json.dumps(value) for name, value in settings.items()} | dict(changes)
        return ("{" + ", ".join(f'"{name}": {text}' for name, text in texts.items()) + "}").encode("utf-8", "surrogatepass")

    changed = st.lists(st.tuples(st.sampled_from(names), json_texts(names)), max_size=3).map(put)
    return changed | spoiled(changed) | json_texts(names).map(lambda text: text.encode("utf-8", "surrogatepass"))


def used_or_refused(call: Any) -> str | None:
    return outcome(lambda: [call()])[1]


@inputs()
def test_adapter_settings(number: int, tmp_path: Path) -> None:
    settings = {
        "base_model_name_or_path": "nano/opt-s",
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": 4,
        "megatron_config": None,
    }

    def check(content: bytes) -> None:
        (tmp_path / "adapter_config.json").write_bytes(content)
        used_or_refused(lambda: adapter_settings(tmp_path))

    with memory(2048):
        fuzz(number, edited(settings), check)


@pytest.fixture
def folder(tiny: Any, tokenizer: Any, tmp_path: Path) -> Path:
    save_model(tiny("opt", torch.float32), tokenizer, tmp_path / "model")
    return tmp_path / "model"


@inputs(few=20, many=1000)
@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json"])
def test_model_folders(number: int, file: str, folder: Path) -> None:
    own = (folder / file).read_bytes()
    contents = spoiled(st.just(own)) if file.endswith(".safetensors") else edited(json.loads(own))

    def check(content: bytes) -> None:
        (folder / file).write_bytes(content)
        refusal = used_or_refused(lambda: load_model(folder, device="cpu"))
        assert refusal is None or str(folder) in refusal or content != own

    with memory(4096):
        fuzz(number, contents, check)


RUN: dict[str, Any] = {
    "benchmark": "methods", "numerics": 1, "task": "piqa", "train": 8, "forget": 2, "family": "opt", "seed": 0,
    "training": {"epochs": 1, "learning_rate": 1e-3, "batch_size": 8, "weight_decay": 0.0, "clip_norm": 1.0, "betas": [0.9, 0.999]},
    "method": "npo", "options": {"beta": 0.1},
}  # fmt: skip


@inputs()
def test_run_records(number: int, tmp_path: Path) -> None:
    store, config = RunStore(tmp_path), RUN
    record: Any = store.put("a", config, {"peak_memory_bytes": 15}, {"seconds": 1.0})
    path = store.path("a", config)

    def check(content: bytes) -> None:
        path.write_bytes(content)
        found, refusal = outcome(lambda: [store.get("a", config)])
        if refusal is None:
            assert found[0]["config"] == config
            assert isinstance(found[0]["results"], dict)
        else:
            assert str(path) in refusal

    with memory(2048):
        fuzz(number, edited(record), check)


@inputs()
def test_parameters_of_notebooks(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"seed": 0, "rate": 0.5, "recompute": False, "profile": "nano", "sizes": [1, 2]}
    monkeypatch.setattr(notebooks, "parameters", lambda notebook: known)
    names = st.sampled_from([*known, "unknown"])

    def check(given: dict[str, str]) -> None:
        for found in outcome(lambda: [notebooks.parse(Path("a.ipynb"), given)])[0]:
            assert all(type(value) is type(known[name]) for name, value in found.items())

    fuzz(number, st.dictionaries(names, json_texts(["a"]) | st.text(max_size=6), max_size=3), check)


@inputs()
def test_options_of_methods(number: int) -> None:
    words = st.sampled_from(
        ["", "nan", "inf", "-1", "0", "1e999", "9" * 5000, "1_0", "true", "None", "calibrate", "\ud83d", "\x1b[31m", "a\nb"]
    )
    pairs = st.sampled_from(sorted(METHODS)).flatmap(
        lambda name: st.tuples(
            st.just(name),
            st.dictionaries(st.sampled_from(sorted(METHODS[name].model_fields)), words | st.text(max_size=6), max_size=3),
        )
    )

    def check(given: tuple[str, dict[str, str]]) -> None:
        name, options = given
        used_or_refused(lambda: choose(name, parse_options(options), ["retain", "holdout", "base"]))

    fuzz(number, pairs, check)


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    store.put("a", RUN, {"peak_memory_bytes": 15}, {})
    alone = json.dumps({"config": RUN}).encode()
    for content in (b"[1]", b"\xff", b"[" * 100_000, b'{"config": {"seed": 0}}', alone, b'{"a": ' + b"9" * 5000 + b"}"):
        store.path("a", RUN).write_bytes(content)
        with pytest.raises(InputError, match="delete it and run again"):
            store.get("a", RUN)
