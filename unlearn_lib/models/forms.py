"""Saved forms: folders whose model is more than one plain transformers checkpoint, such as an ensemble, or a model with an offset.

A folder of a form holds `unlearn_form.json`, a JSON object with "form", the name in `FORMS`, and "version", the number of its
layout; the rest of it is the form's own. The model of a form is a causal language model that transformers' `generate` takes; its
`save_pretrained` writes the folder, with `write_form`, and weights in safetensors alone. Nothing else of the library asks for a form.

A form whose model holds the model that was given to the method, unchanged and beside other parts, says so by the class attribute
`given_part`, the name of the submodule.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from unlearn_lib.errors import InputError, unknown
from unlearn_lib.files import write_text
from unlearn_lib.models.suited import refused

FILE = "unlearn_form.json"
VERSION = 1

LoadModel = Callable[[str], tuple[Any, Any]]
"""Loads another model by its name or folder, with its tokenizer, on the device and in the number format that were asked for."""

FORMS: dict[str, str] = {
    "sisa": "unlearn_lib.models.sisa",
    "eul": "unlearn_lib.models.unlearning_layers",
    "certified": "unlearn_lib.models.certified",
    "offset": "unlearn_lib.models.offset",
}
"""The module that has `load(folder, settings, load_model) -> (model, tokenizer)`, by the form's name; imported when it is needed."""


def is_form(folder: str | Path) -> bool:
    """Whether a folder holds the model of a form."""
    return (Path(folder) / FILE).is_file()


def form_settings(folder: str | Path) -> dict[str, Any]:
    """What the folder of a form says of itself, checked as far as all forms are alike.

    Raises:
        InputError: No JSON object, an unknown form, or a layout that this version does not know.
    """
    with refused(f"the model in {folder} cannot be loaded: {FILE} cannot be read"):
        settings = json.loads((Path(folder) / FILE).read_text(encoding="utf-8"))
    if not isinstance(settings, dict) or not isinstance(settings.get("form"), str):
        raise InputError(f"the model in {folder} cannot be loaded: {FILE} does not say which form it has")
    if settings["form"] not in FORMS:
        raise unknown(f"form of the model in {folder}:", settings["form"], FORMS)
    if settings.get("version") != VERSION:
        raise InputError(
            f"the model in {folder} cannot be loaded: its form has the version {settings.get('version')!r}, and this library reads "
            f"version {VERSION}; install the version that wrote it"
        )
    return settings


def load_form(folder: str | Path, load_model: LoadModel) -> tuple[Any, Any]:
    """`(model, tokenizer)` of the folder of a form, in evaluation mode.

    Raises:
        InputError: As `form_settings`; what the form itself refuses.
    """
    settings = form_settings(folder)
    return import_module(FORMS[settings["form"]]).load(Path(folder), settings, load_model)  # type: ignore[no-any-return]


def write_form(folder: str | Path, form: str, settings: Mapping[str, Any]) -> None:
    """Write what the folder of a form says of itself.

    Raises:
        OSError: It cannot be written.
    """
    write_text(Path(folder) / FILE, json.dumps({"form": form, "version": VERSION, **settings}, indent=2) + "\n")


def form_of(model: Any) -> str:
    """The form of a model; "" of a plain one."""
    return str(getattr(type(model), "form", ""))


def holds_texts(model: Any) -> bool:
    """Whether the folder of a model's form holds the texts that it was trained on. Another method than the form's own would leave there
    what it forgets."""
    return bool(getattr(type(model), "holds_texts", False))


def given_part(model: Any) -> str:
    """The name of the submodule that is the model that was given to the method; "" where that is the model itself."""
    return str(getattr(type(model), "given_part", ""))


def relative(folder: str | Path, other: str | Path) -> str:
    """How a form's file names a model that is in a folder inside its own; other names stay as they are."""
    inside = Path(other)
    try:
        return f"./{inside.resolve().relative_to(Path(folder).resolve())}"
    except ValueError:
        return str(other)


def named(folder: str | Path, name: str) -> str:
    """The name that `load_model` takes for what `relative` gave.

    Raises:
        InputError: It is a folder inside that is not there, or the form's folder itself.
    """
    if not name.startswith("./"):
        return name
    inside = Path(folder).resolve() / name
    if inside.resolve() == Path(folder).resolve():
        raise InputError(f"the model in {folder} cannot be loaded: {FILE} names the folder itself as a part of it")
    if not inside.is_dir():
        raise InputError(f"the model in {folder} cannot be loaded: its part {name} is missing; copy the whole folder again")
    return str(inside)
