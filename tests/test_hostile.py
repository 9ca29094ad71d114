"""Texts, names and settings that are HTML or script: a report shows them as text."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from unlearn_lib import save_model
from unlearn_lib.command.cli import main
from unlearn_lib.command.report.measure import Measured
from unlearn_lib.command.report.page import render
from unlearn_lib.data.batches import Example
from unlearn_lib.data.files import write_rows
from unlearn_lib.reproduction.exhibits.table10_boilerplate import highlighted

ATTACKS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</td></table><svg onload=alert(1)>",
    "\"'><iframe src=javascript:alert(1)>",
    "{{ 7 * 7 }}{% raw %}",
    "<!-- <b>",
    "]]></style></svg><script>alert(1)//",
    "&lt;script&gt; &amp;",
)


class Page(HTMLParser):
    """The elements of a page and all text in it."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: dict[str, int] = {}
        self.dangerous: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements[tag] = self.elements.get(tag, 0) + 1
        self.dangerous += [f"{tag} {name}" for name, value in attrs if name.startswith("on") or "javascript:" in str(value)]
        self.dangerous += [tag] if tag in ("script", "iframe", "img", "object", "embed", "base", "form") else []

    def handle_data(self, data: str) -> None:
        self.text += data


def run(folder: Path, model: Any, tokenizer: Any, texts: list[str], name: str) -> Page:
    """The report of a run on these texts, in files and a model folder of this name."""
    folder.mkdir()
    save_model(model, tokenizer, folder / f"{name}-model")
    for part in ("forget", "retain", "holdout"):
        rows = [{"text": text if part == "forget" else f"{part} {text} of its own"} for text in texts]
        (folder / f"{name}-{part}.jsonl").write_text(write_rows(rows), encoding="utf-8")
    files = [word for part in ("forget", "retain", "holdout") for word in (f"--{part}", str(folder / f"{name}-{part}.jsonl"))]
    words = ["run", "--model", str(folder / f"{name}-model"), *files, "--out", str(folder / "out"), "--show-texts"]
    result = CliRunner().invoke(main, [*words, "--method", "gradient-ascent", "--set", "step=0.01"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return Page((folder / "out" / "report.html").read_text(encoding="utf-8"))


@pytest.mark.filterwarnings("default")
def test_a_report_shows_hostile_texts_and_names_as_they_are(tmp_path: Path, tiny: Any, tokenizer: Any) -> None:
    import torch

    model = tiny(dtype=torch.float32)
    plain = run(tmp_path / "plain", model, tokenizer, [f"a text, number {i}" for i in range(len(ATTACKS))], "mine")
    hostile = run(tmp_path / "hostile", model, tokenizer, list(ATTACKS), "<img src=x onerror=alert(1)>&amp;'\"")
    assert plain.dangerous == hostile.dangerous == []
    # only warnings may add a paragraph, and only the axes of a plot a mark; nothing that a text says is an element
    varying = dict.fromkeys(("p", "g", "use", "path", "text"), 0)
    assert {**hostile.elements, **varying} == {**plain.elements, **varying}
    for attack in ATTACKS:
        assert attack in hostile.text
    assert "<img src=x onerror=alert(1)>&amp;'\"-forget.jsonl" in hostile.text


def test_every_field_of_a_report_is_shown_as_text(tmp_path: Path) -> None:
    """Each string anywhere in a report, keys included, is replaced by an attack in turn."""
    import torch

    losses = {name: torch.tensor([1.0, 2.0]) for name in ("forget", "retain", "holdout")}
    measured = Measured(losses, {"loss_attack_auc": 0.5}, torch.zeros(2))
    attack = ATTACKS[1]
    report = {
        "method": attack,
        "model": {"name": attack, "base": attack, "type": attack, "parameters": 1, "trainable": 1},
        "environment": {"created": attack, attack: attack},
        "data": {part: {"path": attack, "rows": 2, "used": 2, "sha256": attack} for part in losses},
        "verdict": {
            "outcome": attack,
            "sentence": attack,
            "findings": [{"question": attack, "answer": attack, "says": attack}],
        },
        "warnings": [attack],
        "losses": {part: {"before": 1.0, "after": 2.0} for part in losses},
        "metrics": {"before": dict(measured.metrics), "after": dict(measured.metrics)},
        "details": {"kolmogorov_smirnov": {"distance": attack, "p": attack, "n_forget": attack, "n_holdout": attack}},
        "forget_texts": [
            {
                "row": 1,
                "tokens": 3,
                "sha256": attack,
                "loss": {"before": 1.0, "after": 2.0},
                "extraction_strength": {"before": 0.0, "after": 0.0},
                "text": attack,
            }
        ],
        "config": {attack: attack},
        "solution": {"operator": attack, "residual": attack, "reason": attack},
        "cost": {"seconds": 1.0, "gradient_evaluations": 1.0, "peak_memory_bytes": 1},
    }
    page = Page(render(report, losses, losses))
    assert page.dangerous == []
    assert page.text.count(attack) >= 24


def test_what_comes_back_is_highlighted_as_text(tokenizer: Any) -> None:
    for attack in ATTACKS:
        ids = tuple(tokenizer(attack)["input_ids"])
        page = Page(str(highlighted(tokenizer, Example(ids, ids), [i % 2 == 0 for i in range(len(ids))])))
        assert set(page.elements) <= {"pre", "mark"}
        assert page.dangerous == []
        assert page.text == attack
