"""What `unlearn run` writes: its number format, its permissions, its place."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner, Result
from model_folders import llama, rewrite, save

from unlearn_lib import NumericsError, text_losses
from unlearn_lib.command.cli import main
from unlearn_lib.models.stored_formats import round_weights


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any, texts: list[dict[str, str]]) -> Path:
    folder = tmp_path_factory.mktemp("user")
    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        save(llama().to(dtype), tokenizer, folder / name)
    shutil.copytree(folder / "bfloat16", folder / "mixed")
    rewrite(folder / "mixed", lambda own: {name: t.float() if "norm" in name else t for name, t in own.items()})
    (folder / "forget.jsonl").write_text("\n".join(json.dumps(row) for row in texts[:2]), encoding="utf-8")
    return folder


def run(place: Path, model: str, out: Path | str, *words: str) -> Result:
    step = ["--set", "step=0.5"] if "--set" not in words else []
    words = ("--model", str(place / model), "--out", str(out), "--device", "cpu", *step, *words)
    return CliRunner().invoke(main, ["run", "--forget", str(place / "forget.jsonl"), "--method", "gradient-ascent", *words])


def formats(folder: Path) -> set[str]:
    from safetensors.torch import load_file

    return {f"{'norm' if 'norm' in name else 'other'} {t.dtype}" for name, t in load_file(folder / "model.safetensors").items()}


@pytest.mark.parametrize(
    ("model", "words", "norm", "other"),
    [
        ("float32", (), "float32", "float32"),
        ("bfloat16", (), "bfloat16", "bfloat16"),
        ("float16", (), "float16", "float16"),
        ("mixed", (), "float32", "bfloat16"),
        ("bfloat16", ("--dtype", "float32"), "float32", "float32"),
        ("float32", ("--dtype", "bfloat16"), "bfloat16", "bfloat16"),
    ],
)
def test_the_format_written_is_the_stored_one_or_the_one_asked_for(
    model: str, words: tuple[str, ...], norm: str, other: str, place: Path, tmp_path: Path, tokenizer: Any
) -> None:
    from transformers import AutoModelForCausalLM

    result = run(place, model, tmp_path / "out", *words)
    assert result.exit_code == 0, result.output
    assert formats(tmp_path / "out/model") == {f"norm torch.{norm}", f"other torch.{other}"}
    report = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    found = report["model"]["dtype"]
    assert found["worked_in"] == "float32"
    assert found["written"] == ", ".join(sorted({norm, other}))
    assert found["stored"] == ("bfloat16, float32" if model == "mixed" else model)
    assert ("note: the model is written in" in result.output) == (other != "float32")
    # what the report states of the outcome is true of the model as it was written
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out/model", dtype=torch.float32).eval()
    rows = [json.loads(line) for line in (place / "forget.jsonl").read_text(encoding="utf-8").splitlines()]
    loss = float(text_losses(written, tokenizer, rows).double().mean())
    assert report["losses"]["forget"]["after"] == pytest.approx(loss, rel=1e-6)
    assert report["losses"]["forget"]["after"] > report["losses"]["forget"]["before"]


def test_an_unknown_format_and_numbers_too_large_for_one(place: Path, tmp_path: Path) -> None:
    result = run(place, "float32", tmp_path / "out", "--dtype", "int8")
    assert (result.exit_code, result.stderr) == (
        2,
        "unlearn: unknown dtype 'int8'; choose one of: stored, float32, bfloat16, float16\n",
    )
    model = llama()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = 1e6
    with pytest.raises(NumericsError, match=r"lm_head\.weight has numbers of size 1e\+06, too large for float16"):
        round_weights(model, {"lm_head.weight": torch.float16})


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_everything_written_follows_the_umask(umask: int, place: Path, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        assert run(place, "float32", tmp_path / "out").exit_code == 0
    finally:
        os.umask(before)
    modes = {
        path.relative_to(tmp_path).as_posix(): oct(stat.S_IMODE(path.stat().st_mode))
        for path in [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    }
    for name, mode in modes.items():
        assert mode == oct((0o777 if (tmp_path / name).is_dir() else 0o666) & ~umask), name
    assert {"out/model/model.safetensors", "out/report.json", "out/report.html"} <= set(modes)


def test_out_may_be_a_link_to_an_empty_folder(place: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    assert run(place, "float32", tmp_path / "link").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["model", "report.html", "report.json"]
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("kind", ["dangling", "not UTF-8", "long", "below a file", "being written"])
def test_an_output_that_cannot_be_is_refused_before_the_model_is_loaded(
    kind: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import unlearn_lib.models.load
    from unlearn_lib.files import new_folder

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(unlearn_lib.models.load, "load_model", never)
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "file").write_text("x", encoding="utf-8")
    out, message = {
        "dangling": (tmp_path / "link", "is a link to what does not exist"),
        "not UTF-8": (os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"), r"caf\udce9 is not UTF-8 here"),
        "long": (tmp_path / ("x" * 300), "File name too long"),
        "below a file": (tmp_path / "file" / "out", "Not a directory"),
        "being written": (tmp_path / "out", "another process is writing"),
    }[kind]
    with new_folder(tmp_path / "out"):
        result = run(place, "float32", out)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_disk_without_room_is_said_before_the_work(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    result = run(place, "float32", tmp_path / "out")
    assert result.exit_code == 3
    assert "No space left on device" in result.stderr
    assert "MiB free, and the model takes" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_nobody_reading_the_lines_loses_no_result(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: Any, **__: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(click, "echo", closed)
    result = run(place, "float32", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out/report.json").is_file()


def test_texts_whose_file_has_a_name_that_is_not_utf8(place: Path, tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl")
    try:
        shutil.copy(place / "forget.jsonl", name)
    except OSError:
        pytest.skip("the file system takes no such names")
    result = run(place, "float32", tmp_path / "out", "--forget", name)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert report["data"]["forget"]["path"].endswith(r"caf\udce9.jsonl")


def latin_1(folder: Path) -> dict[str, str]:
    """A locale in which a letter beyond ASCII is another byte than in UTF-8, made for the test."""
    made = subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US.ISO-8859-1")], capture_output=True, check=False
    )
    if made.returncode not in (0, 1):  # 1: with warnings
        pytest.skip("no locale can be made here")
    return {"LOCPATH": str(folder), "LC_ALL": "en_US.ISO-8859-1"}


@pytest.mark.parametrize("locale", ["C", pytest.param("Latin-1", marks=pytest.mark.nightly)])
def test_in_another_locale_files_are_still_utf8(locale: str, place: Path, tmp_path: Path) -> None:
    """In a locale without a letter beyond ASCII, and with an error for every file that is opened in the locale's encoding."""
    (tmp_path / "forget.jsonl").write_text('{"text": "Größe — schön"}\n{"text": "naïve café"}\n', encoding="utf-8")
    code = """
import sys, warnings
warnings.filterwarnings("error", category=EncodingWarning, module=r"unlearn_lib(\\.|$)")
from unlearn_lib.command.cli import main
main(sys.argv[1:])
"""
    (tmp_path / "locale").mkdir()
    own = {"LC_ALL": "C"} if locale == "C" else latin_1(tmp_path / "locale")
    python = [sys.executable, "-X", "warn_default_encoding", "-W", "ignore::EncodingWarning", "-c", code]
    words = ["run", "--model", str(place / "float32"), "--forget", "forget.jsonl", "--method", "gradient-ascent"]
    done = subprocess.run(
        [*python, *words, "--show-texts", "--out", "out"],
        cwd=tmp_path,
        env={**os.environ, **own, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert sorted(entry["text"] for entry in report["forget_texts"]) == ["Größe — schön", "naïve café"]
    assert "Größe — schön" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
