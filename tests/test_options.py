"""The docstring of every method shows every option, with its type, its default, its meaning, and what the paper has."""

import inspect
import json
import pydoc
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner
from pydantic import Field

from unlearn_lib import unlearn
from unlearn_lib.command.cli import main
from unlearn_lib.methods import METHODS, FisherRemoval, Method
from unlearn_lib.methods.options import kind, shown, split
from unlearn_lib.unlearning.request import Request

ENTRY = re.compile(r"    (\w+) \((.+), default (.+?)\): (.+)")


def entries(method: type[Method]) -> dict[str, tuple[str, str, str]]:
    """The options in a docstring: type, default and meaning of each, as a reader finds them."""
    _, _, options = (method.__doc__ or "").partition("\nOptions:\n")
    joined = re.sub(r"\n {8}", " ", options)
    found = [ENTRY.fullmatch(line) for line in joined.splitlines()]
    return {entry[1]: (entry[2], entry[3], entry[4]) for entry in found if entry is not None}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_the_docstring_has_the_options_of_the_fields(method: type[Method]) -> None:
    found = entries(method)
    assert list(found) == list(method.model_fields)
    for name, (type_, default, meaning) in found.items():
        field = method.model_fields[name]
        assert type_ == kind(field.annotation), name
        assert default == shown(field.default), name
        assert meaning.endswith("."), name


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_no_class_describes_an_option_that_is_not_there(method: type[Method]) -> None:
    for base in method.__mro__:
        if issubclass(base, Method):
            assert set(base.meanings) <= set(base.model_fields), base


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_the_papers_value_stands_beside_every_option_of_its_preset(method: type[Method]) -> None:
    meanings = {name: meaning for name, (_, _, meaning) in entries(method).items()}
    for name in method.presets.get("paper", {}):
        assert "paper" in meanings[name], name


def test_help_shows_what_is_inherited() -> None:
    text = pydoc.render_doc(FisherRemoval, renderer=pydoc.plaintext)
    for line in (
        'step (float or "calibrate", default "calibrate"): gamma',
        "steps (int, default 4): How often the direction is computed anew and followed (paper: 1).",
        "retain_limit (float or None, default 0.2): When calibrating, the retain loss may rise",
        "damping (float or None, default None): lambda;",
        "width (int, default 48): Block width B;",
        'solver ("block" or "woodbury" or ',
    ):
        assert line in text, line


def test_unlearn_methods_lists_the_same_options() -> None:
    result = CliRunner().invoke(main, ["methods", "--json"])
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    assert {row["name"]: list(row["options"]) for row in rows} == {name: list(entries(of)) for name, of in METHODS.items()}


def test_the_nearest_class_says_what_an_option_means() -> None:
    class Own(FisherRemoval):
        """A method of one's own.

        Options:
            width, terms: Both mean
                the same.
            more: One option more.
        """

        name: ClassVar[str] = "own"
        more: int | None = Field(3, ge=1)
        silent: bool = False

    found = entries(Own)
    assert found["width"] == ("int", "48", "Both mean the same.")
    assert found["terms"] == ("int", "1024", "Both mean the same.")
    assert found["more"] == ("int or None", "3", "One option more.")
    assert found["damping"] == entries(FisherRemoval)["damping"]
    assert (Own.__doc__ or "").startswith("A method of one's own.\n\nOptions:\n    retain_limit (")
    assert "    silent (bool, default False):" in (Own.__doc__ or "")  # without a meaning, but it is there


def test_what_is_asked_has_the_same_names_and_defaults_everywhere() -> None:
    """The arguments of `unlearn`, the fields of a request, and the words of the command."""
    asked = {field.name: field.default for field in fields(Request) if field.name != "options"}
    arguments = {name: parameter.default for name, parameter in inspect.signature(unlearn).parameters.items()}
    assert arguments.pop("forget") is inspect.Parameter.empty
    assert {name: arguments[name] for name in asked if name != "forget"} == {
        name: asked[name] for name in asked if name != "forget"
    }
    assert arguments.keys() - asked.keys() == {"model", "tokenizer", "progress", "keep", "options"}
    words = {parameter.name: parameter for parameter in main.commands["run"].params}
    assert asked.keys() <= words.keys()
    for name in ("method", "seed", "batch_size", "long_texts", "assistant_only"):
        assert words[name].default == asked[name], name
    assert not words["max_length"].required


def test_a_docstring_without_options() -> None:
    assert split(None) == ("", {})
    assert split("What it does.\n\n    More of it.\n") == ("What it does.\n\nMore of it.", {})


def test_every_method_is_on_the_page_of_the_library() -> None:
    page = (Path(__file__).parents[1] / "book" / "api.md").read_text(encoding="utf-8")
    missing = [f"{of.__module__}.{of.__name__}" for of in METHODS.values() if f":: {of.__module__}.{of.__name__}\n" not in page]
    assert missing == []
