"""Run notebooks through papermill: parameters checked, kernel set, freshness and provenance stored in the executed notebook."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unlearn_lib.data.rows import shown
from unlearn_lib.environment import provenance
from unlearn_lib.errors import InputError
from unlearn_lib.files import check_writable, write_text

KERNEL = "python3"
STAMP = "unlearn_lib"
LIBRARIES = ("torch", "transformers", "datasets", "matplotlib", "seaborn", "pandas", "papermill")


def parameters(notebook: Path) -> dict[str, Any]:
    """The parameters of a notebook with their default values.

    Raises:
        InputError: The notebook has no cell tagged `parameters`.
    """
    from papermill import inspect_notebook

    found = inspect_notebook(str(notebook))
    if not found:
        raise InputError(f"{notebook} has no cell tagged 'parameters', so it cannot be run by this driver")
    return {name: ast.literal_eval(entry["default"]) for name, entry in found.items()}


def parse(notebook: Path, given: Mapping[str, str]) -> dict[str, Any]:
    """Check `key=value` strings against a notebook's parameters and convert them to the types of the defaults.

    Raises:
        InputError: An unknown parameter, or a value of another type. (papermill itself only warns, and runs with the defaults.)
    """
    known, values = parameters(notebook), {}
    for name, text in given.items():
        if name not in known:
            raise InputError(f"unknown parameter {name!r} of {notebook.name}; choose one of: {', '.join(known)}")
        default = known[name]
        try:
            value = text if isinstance(default, str) else json.loads(text.lower() if isinstance(default, bool) else text)
            if isinstance(default, float) and type(value) is int:
                value = float(value)
        except (ValueError, RecursionError, OverflowError):  # no JSON, or numbers and nesting that Python does not read
            value = text
        if type(value) is not type(default):
            raise InputError(
                f"parameter {name} of {notebook.name} is {type(default).__name__} (default {default!r}), got {shown(text)!r}"
            )
        values[name] = value
    return values


def fingerprint(notebook: Path, values: Mapping[str, Any], root: Path) -> str:
    """A hash of all an executed notebook depends on: its cells, its parameters, the library, the records, the versions."""
    digest = hashlib.sha256()
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    digest.update(repr([(cell["cell_type"], cell["source"], cell["metadata"]) for cell in cells]).encode())
    digest.update(json.dumps(dict(values), sort_keys=True).encode())
    digest.update(repr([(name, version(name)) for name in LIBRARIES] + [sys.version_info[:3]]).encode())
    package = Path(__file__).resolve().parents[2]
    for path in sorted(
        [
            *package.rglob("*.py"),
            *package.rglob("*.csv"),
            package / "models/nano_models/manifest.json",
            *(root / "results").rglob("*.json"),
        ]
    ):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def execute(notebook: Path, target: Path, values: Mapping[str, Any], root: Path) -> bool:
    """Execute a notebook into `target` unless `target` is fresh. Returns whether it ran.

    The kernel is this interpreter's. A failing notebook leaves `target` as it was, and its own text with the error beside it as
    `*.failed.ipynb`.

    Raises:
        InputError: A cell raised; the message names the cell's error and the file to look at.
        OSError: The folder of `target` cannot be written; nothing was executed.
    """
    import nbformat
    import papermill

    mark = fingerprint(notebook, values, root)
    if _mark(target) == mark:
        return False
    check_writable(target.parent)
    with tempfile.TemporaryDirectory() as temporary:
        output = Path(temporary) / notebook.name
        _this_interpreter_as_kernel(Path(temporary))
        try:
            papermill.execute_notebook(
                str(notebook), str(output), dict(values), kernel_name=KERNEL, cwd=str(notebook.parent), progress_bar=False
            )
        except papermill.PapermillExecutionError as error:
            failed = target.with_suffix(".failed.ipynb")
            shutil.copy(output, failed)
            raise InputError(f"{notebook.name} failed with {error.ename}: {error.evalue}; see {failed}") from error
        node = nbformat.read(output, as_version=4)
        node.metadata[STAMP] = {"fingerprint": mark, "provenance": provenance()}
        write_text(target, nbformat.writes(node) + "\n")
    return True


def _mark(target: Path) -> str | None:
    """The fingerprint in an executed notebook; None where there is none, or where the file is damaged, which is then made anew."""
    try:
        return str(json.loads(target.read_text(encoding="utf-8"))["metadata"][STAMP]["fingerprint"])
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None


def store_outputs(notebook: Path) -> None:
    """Execute a notebook at its defaults and keep the outputs in the file itself: what is committed, and what nbval compares.

    Raises:
        InputError: A cell raised; the file is left as it was.
        OSError: The notebooks' folder cannot be written; nothing was executed.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    check_writable(notebook.parent)
    node = nbformat.read(notebook, as_version=4)
    with tempfile.TemporaryDirectory() as temporary:
        _this_interpreter_as_kernel(Path(temporary))
        client = NotebookClient(
            node, kernel_name=KERNEL, resources={"metadata": {"path": str(notebook.parent)}}, record_timing=False, timeout=None
        )
        try:
            client.execute()
        except CellExecutionError as error:
            raise InputError(f"{notebook.name} failed with {error.ename}: {error.evalue}") from error
    node.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": KERNEL},
        "language_info": {"name": "python"},
    }
    write_text(notebook, nbformat.writes(node) + "\n")


def _this_interpreter_as_kernel(folder: Path) -> None:
    """Make `python3` mean this interpreter, whatever kernels the user has installed. It logs next to nothing: errors are in the
    notebook, and to be shut down is one, too, for ipykernel."""
    from ipykernel.kernelspec import write_kernel_spec

    write_kernel_spec(str(folder / "kernels" / KERNEL), extra_arguments=["--log-level=50"])
    os.environ["JUPYTER_PATH"] = os.pathsep.join([str(folder), *filter(None, [os.environ.get("JUPYTER_PATH")])])
