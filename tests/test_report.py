"""What a report says of every forget text, and what it does not say by default."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from unlearn_lib.command.cli import main
from unlearn_lib.command.report.measure import Measured
from unlearn_lib.command.report.texts import forget_texts
from unlearn_lib.data.batches import Example
from unlearn_lib.data.files import write_rows

SECRET = "Xenia Quill's number is 4711-0815"


def measured(losses: list[float], extraction: list[float]) -> Measured:
    return Measured({"forget": torch.tensor(losses)}, {}, torch.tensor(extraction))


def test_best_known_first() -> None:
    rows = [
        {"text": "one"},
        {"text": "two"},
        {"prompt": "three", "completion": " four"},
        {"messages": [{"role": "user", "content": "é"}]},
    ]
    examples = [Example((5,) * n, (5,) * n) for n in (2, 3, 4, 5)]
    before = measured([0.5, 0.25, 1.0, 2.0], [0.0, 0.0, 0.75, 1.0])
    after = measured([3.0, 3.5, 4.0, 4.5], [0.0, 0.0, 0.25, 0.5])
    found = forget_texts(rows, examples, before, after)
    assert [entry["row"] for entry in found] == [4, 3, 2, 1]
    assert found[1] == {
        "row": 3,
        "tokens": 4,
        "sha256": hashlib.sha256(b'{"completion": " four", "prompt": "three"}').hexdigest()[:12],
        "loss": {"before": 1.0, "after": 4.0},
        "extraction_strength": {"before": 0.75, "after": 0.25},
    }
    shown = forget_texts(rows, examples, before, after, show=True)
    assert [entry.pop("text") for entry in shown] == ['[{"role": "user", "content": "é"}]', "three four", "two", "one"]
    assert shown == found


def test_at_most_twenty() -> None:
    numbers = [float(i) for i in range(30)]
    rows, examples = [{"text": str(i)} for i in range(30)], [Example((1, 2), (1, 2))] * 30
    found = forget_texts(rows, examples, measured(numbers, [0.0] * 30), measured(numbers, [0.0] * 30))
    assert [entry["row"] for entry in found] == list(range(1, 21))


@pytest.mark.parametrize("words", [(), ("--show-texts",)])
def test_texts_are_shown_only_on_demand(words: tuple[str, ...], tmp_path: Path, texts: list[dict[str, str]]) -> None:
    planted = {"text": f"{SECRET} <script>alert('{SECRET}')</script>"}
    (tmp_path / "forget.jsonl").write_text(write_rows([*texts[:3], planted]), encoding="utf-8")
    arguments = [
        "--model",
        "nano/opt-s",
        "--device",
        "cpu",
        "--method",
        "gradient-ascent",
        "--forget",
        str(tmp_path / "forget.jsonl"),
    ]
    result = CliRunner().invoke(main, ["run", *arguments, "--out", str(tmp_path / "out"), *words])
    assert result.exit_code == 0, result.output
    report, page = ((tmp_path / "out" / name).read_text(encoding="utf-8") for name in ("report.json", "report.html"))
    assert SECRET not in result.output
    assert "<script" not in page
    entries: list[dict[str, Any]] = json.loads(report)["forget_texts"]
    assert {entry["row"] for entry in entries} == {1, 2, 3, 4}
    assert all(entry["sha256"] in page for entry in entries)
    # what of the secret survives escaping
    number = "4711-0815"
    if not words:
        assert not [word for word in ("Quill", number) if word in report + page + result.output]
        assert not [path for path in (tmp_path / "out").rglob("*.*") if number.encode() in path.read_bytes()]
        assert "No text is shown in this report" in page
        assert all("text" not in entry for entry in entries)
        return
    assert planted["text"] in [entry["text"] for entry in entries]
    assert page.count(number) == 2
    assert "&lt;script&gt;alert(" in page
    assert "both reports show 4 forget texts in full" in result.output
    assert "No text is shown" not in page
