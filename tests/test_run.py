"""`unlearn run` as a user meets it: what it writes, what it refuses, and that it leaves nothing half done."""

import errno
import html
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from unlearn_lib import TrainingConfig, losses, save_model, text_losses, train
from unlearn_lib.audit.auditing import audit
from unlearn_lib.audit.settings import Settings
from unlearn_lib.audit.verdict import WORDS
from unlearn_lib.command.cli import main
from unlearn_lib.data.files import write_rows
from unlearn_lib.losses import token_logits
from unlearn_lib.metrics import likelihood, memorisation
from unlearn_lib.models import nano

SETS = {"forget": slice(0, 5), "retain": slice(5, 24), "holdout": slice(24, 40)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any, tokenizer: Any, texts: list[dict[str, str]]) -> Path:
    """A user's folder: a model trained on some texts, and the files."""
    from transformers import AutoModelForCausalLM

    folder: Path = tmp_path_factory.mktemp("user")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(nano.config(nano.ModelSpec("opt", 32, 2, 2, 0.0, 0, ""))).eval()
    save_model(model, tokenizer, folder / "base")
    marked = [dict(row) for row in texts]
    marked[0]["text"] += " <script>alert(1)</script>"
    train(model, tokenizer, marked[:24], TrainingConfig(40, 1e-2))
    save_model(model, tokenizer, folder / "model")
    for name, part in SETS.items():
        (folder / f"{name}.jsonl").write_text(write_rows(marked[part]), encoding="utf-8")
    return folder


def unlearn(place: Path, *words: str, files: tuple[str, ...] = tuple(SETS), out: Path | None = None) -> Result:
    arguments = ["run", "--model", str(place / "model"), "--device", "cpu"]
    for name in files:
        arguments += [f"--{name}", str(place / f"{name}.jsonl")]
    arguments += ["--out", str(out)] if out is not None else []
    return CliRunner().invoke(main, [*arguments, *words])


def test_a_run_from_files_to_report(place: Path, tmp_path: Path, tokenizer: Any, texts: Any) -> None:
    from transformers import AutoModelForCausalLM

    result = unlearn(place, "--set", "retain_limit=none", out=tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["model", "report.html", "report.json"]
    report = json.loads((tmp_path / "out/report.json").read_text())
    for key in "schema_version method config seed model data losses metrics solution cost environment warnings".split():
        assert key in report
    assert set(report["cost"]) == {"seconds", "peak_memory_bytes", "gradient_evaluations", "forward_evaluations"}
    assert report["data"]["retain"]["rows"] == 19
    assert len(report["data"]["forget"]["sha256"]) == 64
    for metric in ("loss_attack_auc", "greedy_extraction"):
        assert report["metrics"]["before"][metric] > report["metrics"]["after"][metric]
    # loads with plain transformers and gives the losses that the report states
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out/model", attn_implementation="eager").eval()
    for name in SETS:
        rows = [json.loads(line) for line in (place / f"{name}.jsonl").read_text().splitlines()]
        found = float(text_losses(model, tokenizer, rows).double().mean())
        assert found == pytest.approx(report["losses"][name]["after"], rel=1e-6)
    goal = report["details"]["goal"]
    before, after = report["losses"]["forget"].values()
    assert abs(after - goal) <= 0.05 * (goal - before)
    page = (tmp_path / "out/report.html").read_text()
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert texts[0]["text"][:25] not in page
    verdict = report["verdict"]
    assert f"verdict: {verdict['outcome']}. {verdict['sentence']}\n" in result.output
    assert verdict["sentence"] == WORDS[verdict["outcome"]]
    assert f"<b>{verdict['outcome'].capitalize()}.</b> {verdict['sentence']}" in page
    for finding in verdict["findings"]:
        assert html.escape(finding["says"], quote=False) in page
    assert page.index(verdict["sentence"]) < page.index("<h2>")


def test_the_verdict_is_that_of_an_audit(place: Path, tmp_path: Path) -> None:
    """Of the written model, beside the given one and without attacks; the order of held-out texts moves intervals a little."""
    result = unlearn(place, "--set", "retain_limit=none", out=tmp_path / "out")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out/report.json").read_text())["verdict"]
    files: dict[str, Any] = {name: place / f"{name}.jsonl" for name in SETS}
    beside = {"original": str(place / "model"), "settings": Settings(attacks=False)}
    expected = audit(str(tmp_path / "out/model"), None, **files, **beside)
    assert found["outcome"] == expected.outcome
    assert [one["answer"] for one in found["findings"]] == [one.answer for one in expected.findings]
    assert found["findings"][1]["says"] == expected.findings[1].says  # extraction strength
    assert found["findings"][3]["says"] == expected.findings[3].says  # losses


def test_a_report_takes_one_forward_pass_before_and_one_after(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = []

    def counting(model: Any, batch: Any, *rest: Any) -> Any:
        if not torch.is_grad_enabled():
            passed.append(len(batch["input_ids"]))
        return token_logits(model, batch, *rest)

    for module in (losses, likelihood, memorisation):
        monkeypatch.setattr(module, "token_logits", counting)
    assert unlearn(place, "--method", "gradient-ascent", out=tmp_path / "out").exit_code == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    sequences = sum(data["sequences"] for data in report["data"].values())
    timed = min(8, report["data"]["forget"]["sequences"])  # for the forecast of the minutes
    assert sum(passed) == timed + 2 * sequences + report["cost"]["forward_evaluations"]
    passed.clear()
    ran = unlearn(place, "--method", "gradient-ascent", "--dtype", "bfloat16", out=tmp_path / "rounded")
    assert ran.exit_code == 0
    assert sum(passed) == timed + 3 * sequences + report["cost"]["forward_evaluations"]  # what is written is measured, too


def test_same_seed_same_model(place: Path, tmp_path: Path) -> None:
    for name in "ab":
        assert (
            unlearn(place, "--method", "npo", "--seed", "7", "--set", "learning_rate=1e-3", out=tmp_path / name).exit_code == 0
        )
    weights = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]


def test_retraining_from_a_base_folder(place: Path, tmp_path: Path) -> None:
    words = ("--method", "retrain", "--base", str(place / "base"), "--set", "epochs=2", "--set", "learning_rate=1e-2")
    assert unlearn(place, *words, out=tmp_path / "out").exit_code == 0


def test_a_plan_computes_and_writes_nothing(place: Path, tmp_path: Path) -> None:
    result = unlearn(place, "--plan", out=tmp_path / "out")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1].startswith("texts: 5 to forget (")
    assert "gradients of single texts and about" in lines[3]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "files", "message"),
    [
        ((), ("forget", "retain"), "method 'constrained-newton' with these options needs holdout: texts of the same kind"),
        ((), ("forget", "holdout"), "method 'constrained-newton' with these options needs retain"),
        (("--method", "retrain"), ("forget", "retain"), "method 'retrain' with these options needs base"),
        (("--method", "oblivion"), ("forget",), "unknown method 'oblivion'; choose one of: retrain"),
        (("--set", "stepp=1"), ("forget", "retain", "holdout"), "unknown option of constrained-newton 'stepp'"),
        (("--set", "q=-1"), ("forget", "retain", "holdout"), "option q of constrained-newton is -1"),
        (("--set", "damping"), ("forget", "retain", "holdout"), "a parameter is given as key=value"),
        (("--device", "tpu9"), ("forget", "retain", "holdout"), "unknown device 'tpu9'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: tuple[str, ...], files: tuple[str, ...], message: str, place: Path, tmp_path: Path
) -> None:
    result = unlearn(place, *words, files=files, out=tmp_path / "out")
    assert (result.exit_code, result.stdout) == (2, "")
    lines = [line for line in result.stderr.splitlines() if "Loading weights" not in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"unlearn: {message}")
    assert list(tmp_path.iterdir()) == []


def test_bad_files_and_folders(place: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{"txt": "not"}\n')
    base = ["run", "--method", "gradient-ascent", "--out", str(tmp_path / "out")]
    for words, message in (
        (["--model", str(place / "model"), "--forget", str(tmp_path / "bad.jsonl")], "bad.jsonl:2: needs the column 'text'"),
        (["--model", str(tmp_path), "--forget", str(place / "forget.jsonl")], "holds no config.json"),
        (["--model", "./nowhere", "--forget", str(place / "forget.jsonl")], "there is no model folder ./nowhere"),
    ):
        result = CliRunner().invoke(main, [*base, *words])
        assert result.exit_code == 2, result.output
        assert message in result.stderr
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    result = CliRunner().invoke(main, [*base, "--model", str(place / "model"), "--forget", str(place / "forget.jsonl")])
    assert result.exit_code == 2
    assert "nothing is overwritten" in result.stderr
    result = CliRunner().invoke(main, ["run", "--model", str(place / "model"), "--forget", str(place / "forget.jsonl")])
    assert "say where to write with --out DIR, or use --plan" in result.stderr


def test_refused_numerics_are_exit_code_3(place: Path, tmp_path: Path) -> None:
    result = unlearn(
        place, "--method", "fisher-removal", "--set", "solver=woodbury", "--set", "damping=1e-14", out=tmp_path / "out"
    )
    assert result.exit_code == 3
    assert "too small for float32" in result.stderr
    assert "precision='float64'" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted; nothing was written"),
        (OSError(errno.ENOSPC, "No space left on device"), 3, "No space left on device (while writing); nothing was written"),
        (MemoryError(), 3, "out of memory; use a smaller --batch-size"),
    ],
)
def test_nothing_is_half_written(
    error: BaseException, code: int, message: str, place: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    import unlearn_lib.models.load

    def fails(model: Any, tokenizer: Any, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.safetensors").write_text("half of it")
        raise error

    monkeypatch.setattr(unlearn_lib.models.load, "save_model", fails)
    result = unlearn(place, "--method", "gradient-ascent", out=tmp_path / "out")
    assert result.exit_code == code
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_doctor() -> None:
    result = CliRunner().invoke(main, ["doctor"])
    assert result.exit_code == 0
    for word in ("python", "torch", "threads", "disk", "hub", "as it should be"):
        assert word in result.stdout
