"""`report.json` as typed models: what is written is what is read, the book's JSON Schema is theirs, and old reports still load."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from unlearn_lib import InputError
from unlearn_lib.audit.verdict import judge
from unlearn_lib.command.cli import main
from unlearn_lib.command.report.schema import VERSION, Report, json_schema, json_schema_text
from unlearn_lib.data.files import write_rows

COMMITTED = Path(__file__).parents[1] / "book" / "report.schema.json"


@pytest.fixture(scope="module", params=["gradient-ascent", "fisher-removal"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, texts: list[dict[str, str]]) -> Path:
    """The folder of a run: one without retained texts and linear solve, and one with everything."""
    folder = tmp_path_factory.mktemp("run")
    for name, part in (("forget", texts[:3]), ("retain", texts[3:9]), ("holdout", texts[9:13])):
        (folder / f"{name}.jsonl").write_text(write_rows(part), encoding="utf-8")
    words = ["run", "--model", "nano/opt-s", "--device", "cpu", "--method", request.param, "--out", str(folder / "out")]
    words += ["--forget", str(folder / "forget.jsonl")]
    if request.param == "fisher-removal":
        words += ["--retain", str(folder / "retain.jsonl"), "--holdout", str(folder / "holdout.jsonl"), "--show-texts"]
        words += ["--set", "solver=woodbury", "--set", "steps=1", "--set", "retain_limit=none"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return folder / "out" / "report.json"


def unknown_keys(part: Any) -> list[str]:
    """The keys of a report that its models do not name, at any depth."""
    if isinstance(part, list):
        return [key for inner in part for key in unknown_keys(inner)]
    if not isinstance(part, BaseModel):
        return []
    inside = [key for name in type(part).model_fields for key in unknown_keys(getattr(part, name))]
    return [*(part.model_extra or {}), *inside]


def test_a_report_is_read_as_it_was_written(written: Path) -> None:
    report = Report.read(written)
    assert report.as_json() == written.read_text(encoding="utf-8")
    assert unknown_keys(report) == []
    assert (report.solution is None) == (report.method == "gradient-ascent")
    assert (report.data.retain is None) == (report.method == "gradient-ascent")
    assert all((text.text is None) == (report.method == "gradient-ascent") for text in report.forget_texts)
    assert report.verdict is not None
    assert [finding.question for finding in report.verdict.findings] == [finding.question for finding in judge([], [])[2]]


def test_a_fresh_report_validates_against_the_schema_of_the_book(written: Path) -> None:
    schema = json.loads(COMMITTED.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    report = json.loads(written.read_text(encoding="utf-8"))
    validator.validate(report)
    del report["cost"]["seconds"]
    assert [error.message for error in validator.iter_errors(report)] == ["'seconds' is a required property"]


def test_the_schema_of_the_book_is_that_of_the_models() -> None:
    assert COMMITTED.read_text(encoding="utf-8") == json_schema_text()
    assert json.loads(json_schema_text()) == json_schema()


def test_every_part_of_the_schema_says_what_it_is() -> None:
    for name, part in json_schema()["$defs"].items():
        assert part["description"].endswith("."), name


def test_a_report_of_version_0_1_0_loads(written: Path, tmp_path: Path) -> None:
    """That version wrote no number formats, no numbers of sequences and no verdict."""
    old = json.loads(written.read_text(encoding="utf-8")) | {"schema_version": 1}
    del old["model"]["dtype"], old["verdict"]
    for part in old["data"].values():
        if part is not None:
            del part["sequences"]
    text = json.dumps(old, indent=1, ensure_ascii=False) + "\n"
    (tmp_path / "old.json").write_text(text, encoding="utf-8")
    report = Report.read(tmp_path / "old.json")
    assert (report.model.dtype, report.data.forget.sequences, report.verdict) == (None, None, None)
    assert report.as_json() == text


def test_a_key_of_a_later_version_is_kept(written: Path, tmp_path: Path) -> None:
    later = json.loads(written.read_text(encoding="utf-8"))
    later["cost"]["joules"] = 3
    (tmp_path / "later.json").write_text(json.dumps(later), encoding="utf-8")
    assert json.loads(Report.read(tmp_path / "later.json").as_json()) == later
    assert later["schema_version"] == VERSION == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 3}, "has schema version 3, this library reads 1 and 2"),
        ({"schema_version": True}, "schema_version: Input should be a valid integer"),
        ({"cost": {"seconds": "3", "gradient_evaluations": 1, "peak_memory_bytes": 0}}, r"cost\.seconds"),
        ({"warnings": None}, "is not a report of `unlearn run`: warnings: Input should be a valid list"),
    ],
)
def test_what_is_no_report_is_refused(change: dict[str, Any], message: str, written: Path, tmp_path: Path) -> None:
    report = json.loads(written.read_text(encoding="utf-8")) | change
    (tmp_path / "other.json").write_text(json.dumps(report), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        Report.read(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not valid JSON"), ("[" * 100_000, "is not valid JSON"), ("[1]", "has schema version None")],
)
def test_what_is_no_json_object_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        Report.read(tmp_path / "other.json")
