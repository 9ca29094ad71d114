"""The book's page on the audit says what the code does: options, measures, thresholds, outcomes and their order, keys, output."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from unlearn_lib import TrainingConfig, save_model, train
from unlearn_lib.audit import verdict
from unlearn_lib.audit.schema import Audit, Finding, Measure, json_schema_text
from unlearn_lib.command import cli
from unlearn_lib.command.auditing import audit as command
from unlearn_lib.command.cli import main
from unlearn_lib.data.files import write_rows
from unlearn_lib.models import nano

BOOK = Path(__file__).parents[1] / "book"
PAGE = (BOOK / "audit.md").read_text(encoding="utf-8")
QUESTIONS = [finding.question for finding in verdict.judge([], [])[2]]
RULES = ("stands_out", "by_heart", "over_erased", "kept", "comes_back")


def table(first: str) -> list[list[str]]:
    """The cells of the rows of the table whose first column is called so."""
    lines = PAGE[PAGE.index(f"| {first} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names(cell: str) -> list[str]:
    """What stands in backticks, citations apart."""
    return re.findall(r"`([^`]+)`", re.sub(r"\{[^}]*\}`[^`]*`", "", cell))


def test_the_schema_of_the_book_is_that_of_the_models() -> None:
    assert (BOOK / "audit.schema.json").read_text(encoding="utf-8") == json_schema_text()
    for name, part in json.loads(json_schema_text())["$defs"].items():
        assert part["description"].endswith("."), name


def test_the_page_is_in_the_book_next_to_that_of_the_run() -> None:
    chapters = yaml.safe_load((BOOK / "_toc.yml").read_text())["parts"][-1]["chapters"]
    files = [chapter["file"] for chapter in chapters]
    assert files[files.index("book/report") + 1] == "book/audit"
    assert "{download}`audit.schema.json`" in PAGE


def test_every_option_is_on_the_page() -> None:
    said = [name for row in table("option") for name in names(row[0])]
    assert sorted(said) == sorted(name for option in command.params for name in (*option.opts, *option.secondary_opts))
    needed = [option.opts[0] for option in command.params if option.required]
    assert needed == ["--model", "--forget", "--out"]


def test_every_threshold_is_on_the_page_with_its_value() -> None:
    found = {name: value for name, value in vars(verdict).items() if name.isupper() and isinstance(value, float)}
    assert {names(row[0])[0]: float(row[1]) for row in table("threshold")} == found
    rules = PAGE[PAGE.index(f"**{QUESTIONS[0]}**") : PAGE.index("| threshold |")]
    assert set(found) <= set(names(rules))


def test_every_question_and_outcome_is_on_the_page() -> None:
    assert re.findall(r"^\*\*(.*\?)\*\*$", PAGE, flags=re.MULTILINE) == QUESTIONS
    assert {row[0].strip("*"): row[1] for row in table("outcome")} == verdict.WORDS


@pytest.mark.parametrize(
    ("answers", "place"),
    [
        ("bad bad bad bad bad", 0),
        ("bad good bad good bad", 1),
        ("good bad bad good bad", 1),
        ("good good bad good bad", 2),
        ("good good good good bad", 3),
        ("good good good unclear unclear", 6),
        ("unclear good good good good", 7),
        ("good unclear good good good", 7),
    ],
)
def test_the_outcomes_are_tried_in_the_order_of_the_page(answers: str, place: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for rule, answer in zip(RULES, answers.split(), strict=True):
        finding = Finding.model_validate({"question": rule, "answer": answer, "says": "."})
        monkeypatch.setattr(verdict, rule, lambda _, finding=finding: finding)
    outcomes = [row[0].strip("*") for row in table("outcome")]
    assert verdict.judge([], [])[0] == outcomes[place]
    beside = Measure(family="knowledge", name="loss", role="retrained", texts="forget", value=1.0, n=9)
    assert verdict.judge([beside], [])[0] == outcomes[5 if place == 6 else place]
    monkeypatch.setattr(verdict, "worn", lambda _: True)
    worn = place == 6 and "unclear" in answers  # of what should stay
    assert verdict.judge([beside], [])[0] == outcomes[4 if worn else place]


def test_every_key_and_exit_code_is_on_the_page() -> None:
    assert {name for row in table("key of `report.json`") for name in names(row[0])} == set(Audit.model_fields)
    codes = [row[0] for row in table("exit code")]
    assert codes == ["0", "2", "3", "130"]
    assert cli.__doc__ is not None
    assert all(re.search(rf"\b{code} \w", cli.__doc__) for code in codes)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory, texts: list[dict[str, str]], tokenizer: Any) -> tuple[list[str], Audit]:
    """What the page's command prints in a folder with such models and files, and the audit that it writes."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("audit")
    sets = {"forget": texts[:12], "retain": texts[12:24], "holdout": texts[24:]}
    for name, rows in sets.items():
        (folder / f"{name}.jsonl").write_text(write_rows(rows), encoding="utf-8")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(nano.config(nano.ModelSpec("opt", 32, 1, 2, 0.0, 0, ""))).eval()
    for name, learnt in (("retrained", texts[12:24]), ("taught", texts[:24])):
        train(model, tokenizer, learnt, TrainingConfig(8, 1e-2))
        save_model(model, tokenizer, folder / name)
        save_model(model, tokenizer, folder / "unlearned")
    (asked,) = re.findall(r"```bash\n(unlearn audit .*)\n```", PAGE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        ran = CliRunner().invoke(main, [*asked.split()[1:], "--device", "cpu"])
    assert ran.exit_code == 0, ran.output
    return ran.stdout.splitlines(), Audit.read(folder / "audit" / "report.json")


def shape(line: str) -> str:
    """A line without what depends on the models: answers with their numbers, reasons, and the verdict."""
    question = next((question for question in QUESTIONS if line.startswith(question)), None)
    if question is not None:
        answer, _, says = line.removeprefix(f"{question} ").partition(": ")
        assert answer in ("good", "bad", "unclear")
        assert says.endswith(".")
        return question
    if line.startswith("not tested: "):
        return ":".join(line.split(":")[:2])
    if line.startswith("verdict: "):
        outcome, sentence = line.removeprefix("verdict: ").split(". ", 1)
        assert (outcome, sentence) in verdict.WORDS.items()
        return "verdict"
    return line


def test_the_output_has_the_shape_of_the_example(printed: tuple[list[str], Audit]) -> None:
    (example,) = re.findall(r"```text\n(.*?)\n```", PAGE, flags=re.DOTALL)
    told = [
        line for line in printed[0] if not line.startswith("  ")
    ]  # without what is being measured, which the page leaves out
    assert len(told) < len(printed[0])
    assert [shape(line) for line in example.splitlines()] == [shape(line) for line in told]


def test_every_measure_that_is_taken_is_on_the_page(printed: tuple[list[str], Audit]) -> None:
    said = {name for row in table("kind") for name in names(row[1])}
    beside = re.compile(r"^AUC, |^TPR at .* FPR, |^forget loss after |, slice .*$| from the \w+ model$| \(at most .*\)$")
    assert {beside.sub("", one.name) for one in printed[1].measures} <= said
    assert said - {beside.sub("", one.name) for one in printed[1].measures} == {"reference model", "other prompts"}
