"""GGUF files: the same model as the one that was written, quantised or not, and what is said where one cannot be read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from real_stand_ins import tiny_llama, tiny_tokenizer, write_gguf

from unlearn_lib.command.cli import main
from unlearn_lib.errors import InputError
from unlearn_lib.models import gguf_files
from unlearn_lib.models.load import find, load_model, save_model, stored_formats

TEXT = "Question: what is 1,234 or 56?\nAnswer: it's 7."


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture
def file(tmp_path: Path, tokenizer: Any) -> Path:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, tiny_llama(tokenizer), tokenizer)
    return path


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**tokenizer(TEXT, return_tensors="pt", return_token_type_ids=False)).logits


def test_a_plain_file_gives_the_model_that_was_written(file: Path, tokenizer: Any) -> None:
    model, own = load_model(file)
    expected = dict(tiny_llama(tokenizer).named_parameters())
    assert {name for name, _ in model.named_parameters()} == set(expected)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, expected[name], rtol=0, atol=0)
    assert own(TEXT)["input_ids"] == _digits_apart(tokenizer)(TEXT)["input_ids"]
    assert not model.training
    assert all(p.requires_grad for p in model.parameters())


def _digits_apart(tokenizer: Any) -> Any:
    from tokenizers import pre_tokenizers

    own = tokenizer.backend_tokenizer.pre_tokenizer
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), own])
    return tokenizer


def test_digits_stand_alone_where_the_file_says_so(tmp_path: Path) -> None:
    found = {}
    for pre in ("smollm", "gpt-2"):
        tokenizer = tiny_tokenizer()
        write_gguf(tmp_path / f"{pre}.gguf", tiny_llama(tokenizer), tokenizer, pre=pre)
        own = gguf_files.gguf_tokenizer(tmp_path / f"{pre}.gguf")
        found[pre] = [part for part, _ in own.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in 1957")]
    assert found["smollm"] == ["in", "Ġ", "1", "9", "5", "7"]
    assert found["gpt-2"] == ["in", "Ġ1957"]


def test_quantised_weights_become_the_numbers_they_stand_for(tmp_path: Path, tokenizer: Any) -> None:
    from gguf import GGMLQuantizationType, quants

    written = tiny_llama(tokenizer)
    write_gguf(tmp_path / "tiny.gguf", written, tokenizer, kind="Q8_0")
    model, _ = load_model(tmp_path)
    name = "model.layers.1.mlp.down_proj.weight"
    numbers = written.get_parameter(name).detach().numpy()
    kind = GGMLQuantizationType.Q8_0
    stands_for = quants.dequantize(quants.quantize(numbers, kind), kind)
    np.testing.assert_array_equal(model.get_parameter(name).detach().numpy(), stands_for)
    assert np.abs(stands_for - numbers).max() > 0
    assert stored_formats(tmp_path) == {}


def test_it_is_saved_as_a_plain_model(file: Path, tmp_path: Path) -> None:
    """`save_pretrained` refuses a model whose configuration still says that it is quantised."""
    model, tokenizer = load_model(file)
    save_model(model, tokenizer, tmp_path / "plain")
    again, own = load_model(tmp_path / "plain")
    torch.testing.assert_close(logits(again, own), logits(model, tokenizer), rtol=0, atol=0)
    assert "quantization_config" not in (tmp_path / "plain" / "config.json").read_text()


def test_a_folder_with_several_is_ambiguous(file: Path) -> None:
    file.with_name("other.gguf").write_bytes(file.read_bytes())
    with pytest.raises(InputError, match=r"holds 2 GGUF files \(other.gguf, tiny.gguf\); give the path of one"):
        load_model(file.parent)


def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\x00" * 40)
    with pytest.raises(InputError, match=r"bad.gguf cannot be loaded") as caught:
        load_model(tmp_path / "bad.gguf")
    assert "\n" not in str(caught.value)


def test_without_the_package_the_command_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_files, "PACKAGES", ("gguf", "no_such_package"))
    with pytest.raises(InputError, match=r"read with no_such_package; install them with `pip install 'unlearn_lib\[real\]'`"):
        load_model(file)


def test_a_run_on_a_gguf_file_says_what_was_done_to_its_weights(file: Path, tmp_path: Path) -> None:
    rows = {"forget": range(2), "retain": range(2, 10), "holdout": range(10, 16)}
    told = ["run", "--model", str(file), "--method", "gradient-ascent", "--set", "step=0.01", "--device", "cpu"]
    for name, numbers in rows.items():
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(f'{{"text": "The key is number {n}."}}\n' for n in numbers), encoding="utf-8"
        )
        told += [f"--{name}", str(tmp_path / f"{name}.jsonl")]
    planned = CliRunner().invoke(main, [*told, "--plan"])
    assert planned.exit_code == 0, planned.output
    assert "were dequantised to float32" in planned.output
    ran = CliRunner().invoke(main, [*told, "--out", str(tmp_path / "out")])
    assert ran.exit_code == 0, ran.output
    assert "were dequantised to float32, because quantised ones cannot be differentiated" in ran.output
    assert "as safetensors" in ran.output
    again, _ = load_model(tmp_path / "out" / "model")
    before, _ = load_model(file)
    assert not torch.equal(next(again.parameters()), next(before.parameters()))


def test_an_adapters_folder_is_an_adapters_whatever_lies_beside_it(file: Path) -> None:
    (file.parent / "adapter_config.json").write_text("{}")
    assert not find(file.parent).quantised
