"""Build the book: execute the notebooks, stage sources where their docnames equal their repository paths, run jupyter-book."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from unlearn_lib.errors import InputError
from unlearn_lib.progress import Say
from unlearn_lib.reproduction.inventory import ITEMS
from unlearn_lib.reproduction.notebooks import execute
from unlearn_lib.reproduction.processes import completed

MATHJAX = ("tex-mml-chtml.js", "output/chtml/fonts/woff-v2", "input/tex/extensions")


def build(root: Path, report: Say = print) -> Path:
    """Build the HTML book of the checkout at `root`; returns its first page.

    Raises:
        InputError: A notebook failed, the book's packages are missing, or jupyter-book reported a warning (warnings are errors).
    """
    command = Path(sys.executable).with_name("jupyter-book")
    if importlib.util.find_spec("jupyter_book") is None or not command.exists():
        raise InputError("jupyter-book is not installed in this environment; install the extra: pip install -e '.[book]'")
    out = root / "build"
    executed = out / "executed"
    calls = [(item.notebook, root, executed) for item in ITEMS.values()]
    for name, ran in completed(_execute, calls, 2, _one_thread):
        report(f"{'executed' if ran else 'up to date'}: {name}")
    stage(root, executed, out / "src")
    result = subprocess.run(
        [str(command), "build", "src", "--config", "../_config.yml", "--path-output", ".", "-W", "-n", "--keep-going"],
        cwd=out,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    (out / "book.log").write_text(result.stdout + result.stderr)
    if result.returncode:
        complaints = [line for line in (result.stdout + result.stderr).splitlines() if "WARNING" in line or "ERROR" in line]
        raise InputError("the book did not build; see build/book.log:\n" + "\n".join(complaints[:20]))
    return out / "_build" / "html" / "index.html"


def _execute(name: str, root: Path, target: Path) -> tuple[str, bool]:
    return name, execute(root / "notebooks" / name, target / name, {}, root)


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the kernels that this process starts


def stage(root: Path, executed: Path, target: Path) -> None:
    """Copy pages, executed notebooks and figures to `target` under their repository paths, and MathJax to its static folder."""
    import nbformat

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(root / "book", target / "book")
    shutil.move(target / "book" / "_toc.yml", target / "_toc.yml")
    (target / "notebooks").mkdir()
    for item in ITEMS.values():
        node = nbformat.read(executed / item.notebook, as_version=4)
        tags = [cell.metadata.get("tags", []) for cell in node.cells]
        if any("injected-parameters" in cell_tags for cell_tags in tags):
            # two parameter cells on one page confuse: the injected one is what ran
            next(cell_tags for cell_tags in tags if "parameters" in cell_tags).append("remove-cell")
        nbformat.write(node, target / "notebooks" / item.notebook)
    if (root / "figures").is_dir():
        shutil.copytree(root / "figures", target / "figures")
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None or package.origin is None:
        raise InputError("the package sphinx-mathjax-offline is missing; install the extra: pip install -e '.[book]'")
    source, static = Path(package.origin).parent / "static" / "mathjax", target / "book" / "_static" / "mathjax"
    for part in MATHJAX:  # 2 of the package's 20 MB
        (static / part).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (source / part).is_dir() else shutil.copy
        copy(source / part, static / part)
