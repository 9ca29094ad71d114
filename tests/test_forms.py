"""Folders of a form: found by their file, refused in one sentence where it says something unknown."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unlearn_lib.errors import InputError
from unlearn_lib.models import forms
from unlearn_lib.models.load import load_model, save_model


@pytest.fixture
def twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A form whose model is that of the folder it names."""
    module = ModuleType("form_of_a_test")
    module.load = lambda folder, settings, load: load(forms.named(folder, settings["inner"]))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "form_of_a_test", module)
    monkeypatch.setitem(forms.FORMS, "twice", "form_of_a_test")


def test_a_form_is_found_by_its_file_and_moves_with_its_folder(
    twice: None, tiny: Any, tokenizer: Any, tmp_path: Path, fingerprint: Any
) -> None:
    folder = tmp_path / "here"
    save_model(tiny("opt"), tokenizer, folder / "inner")
    forms.write_form(folder, "twice", {"inner": forms.relative(folder, folder / "inner")})
    folder.rename(tmp_path / "there")
    model, _ = load_model(tmp_path / "there", dtype="float64")
    assert fingerprint(model) == fingerprint(tiny("opt"))


def test_what_lies_elsewhere_keeps_its_name(tmp_path: Path) -> None:
    assert forms.relative(tmp_path / "a", tmp_path / "b") == str(tmp_path / "b")
    assert forms.named(tmp_path, "nano/opt-s") == "nano/opt-s"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "does not say which form"),
        ("{", "cannot be read"),
        (json.dumps({"form": "no such", "version": 1}), "unknown form .* 'no such'; choose one of: .*twice"),
        (json.dumps({"form": "twice", "version": 2}), "has the version 2, and this library reads version 1"),
    ],
)
def test_what_a_form_says_is_checked(twice: None, text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / forms.FILE).write_text(text)
    with pytest.raises(InputError, match=said):
        load_model(tmp_path)
