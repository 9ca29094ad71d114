"""Build the book: execute the notebooks, stage sources where their docnames equal their repository paths, run jupyter-book."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from unlearn_lib.errors import InputError
from unlearn_lib.files import check_writable, only_writer, write_text
from unlearn_lib.progress import Say
from unlearn_lib.reproduction.book import colab, course, made, mathjax
from unlearn_lib.reproduction.book.notebooks import execute
from unlearn_lib.reproduction.inventory import ITEMS
from unlearn_lib.reproduction.runs.processes import completed

THEBE = re.compile(
    r"<script>const THEBE_JS_URL.*?</script>|<script [^>]*sphinx-thebe\.js[^>]*></script>"
    r'|<script type="text/x-thebe-config">.*?</script>|<script>kernelName = .*?</script>',
    re.DOTALL,
)


def build(root: Path, report: Say = print, repository: str | None = None, stored: bool = False) -> Path:
    """Build the HTML book of the checkout at `root`; returns its first page.

    Args:
        root: The checkout.
        report: Is told of every notebook.
        repository: OWNER/NAME on GitHub, for links to the source and buttons that open a notebook in Colab; without it the
            book has neither.
        stored: Take the outputs that the notebooks hold, which nbval compares with those of an execution, and execute nothing.

    Raises:
        InputError: A notebook failed, the book's packages are missing, jupyter-book reported a warning (warnings are errors), or
            another process is building the book of this checkout.
        OSError: The folder `build` cannot be written; nothing was executed.
    """
    out = root / "build"
    check_writable(out)
    with ExitStack() as stack:
        try:
            stack.enter_context(only_writer(out / ".book.lock", f"the book in {out}"))
        except FileExistsError as error:
            raise InputError(str(error)) from error
        return _build(root, out, report, repository, stored)


def _build(root: Path, out: Path, report: Say, repository: str | None, stored: bool) -> Path:
    command = Path(sys.executable).with_name("jupyter-book")
    if importlib.util.find_spec("jupyter_book") is None or not command.exists():
        raise InputError("jupyter-book is not installed in this environment; install the extra: pip install -e '.[book]'")
    executed = root / "notebooks" if stored else out / "executed"
    calls = [] if stored else [(item.notebook, root, executed) for item in ITEMS.values()]
    for name, ran in completed(_execute, calls, 2, _one_thread):
        report(f"{'executed' if ran else 'up to date'}: {name}")
    stage(root, executed, out / "src")
    config = configure(root, out, repository)
    result = subprocess.run(
        [str(command), "build", "src", "--config", str(config), "--path-output", ".", "--all", "-W", "-n", "--keep-going"],
        cwd=out,
        env={**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    write_text(out / "book.log", result.stdout + result.stderr)
    if result.returncode:
        complaints = [line for line in (result.stdout + result.stderr).splitlines() if "WARNING" in line or "ERROR" in line]
        raise InputError("the book did not build; see build/book.log:\n" + "\n".join(complaints[:20]))
    for page in (out / "_build" / "html").rglob("*.html"):
        write_text(page, mended(page.read_text(encoding="utf-8")))
    return out / "_build" / "html" / "index.html"


def configure(root: Path, out: Path, repository: str | None) -> Path:
    """The book's configuration, with the address of the repository where it is known."""
    import yaml

    if repository is None:
        return root / "_config.yml"
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    config["repository"] = {"url": f"https://github.com/{repository}", "branch": colab.BRANCH}
    config["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}
    config["html"]["use_repository_button"] = True
    write_text(out / "_config.yml", yaml.safe_dump(config, allow_unicode=True))
    return out / "_config.yml"


def mended(page: str) -> str:
    """A page without the scripts of Thebe (live code), which jupyter-book adds twice to every page though the book has none, and
    with what its theme forgets for screen readers: bibliographies are no lists of list items, and a switch has a name."""
    page = THEBE.sub("", page).replace('role="list" class="citation-list"', 'class="citation-list"')
    return page.replace(
        '<summary><span class="toctree-toggle"', '<summary aria-label="the pages below"><span class="toctree-toggle"'
    )


def _execute(name: str, root: Path, target: Path) -> tuple[str, bool]:
    return name, execute(root / "notebooks" / name, target / name, {}, root)


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # read by the kernels that this process starts


def fold_parameters(cell: Any) -> None:
    """Fold a cell of parameters, which nobody comes to a page for, under a label that says what it is."""
    tags = cell.metadata.get("tags", [])
    if {"parameters", "injected-parameters"} & set(tags) and not {"hide-input", "remove-cell"} & set(tags):
        tags.append("hide-input")
        prompts = {"code_prompt_show": "Show the parameters", "code_prompt_hide": "Hide the parameters"}
        cell.metadata["mystnb"] = {**prompts, **cell.metadata.get("mystnb", {})}


def stage(root: Path, executed: Path, target: Path) -> None:
    """Put together the sources of the book in `target`, under their repository paths: pages, executed notebooks, figures, how each
    was made, and MathJax."""
    import nbformat
    import yaml

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(root / "book", target / "book")
    toc = yaml.safe_load((target / "book" / "_toc.yml").read_text(encoding="utf-8"))
    texts = made.pages(root)
    for path, text in texts.items():
        write_text((target / path).with_suffix(".md"), text)
    below = [{"file": f"{made.FOLDER}/{identifier}", "title": item.title} for identifier, item in ITEMS.items()]
    toc["parts"][-1]["chapters"].append({"file": made.FOLDER, "sections": below})
    write_text(target / "_toc.yml", yaml.safe_dump(toc, sort_keys=False))
    (target / "book" / "_toc.yml").unlink()
    (target / "notebooks").mkdir()
    for identifier, item in ITEMS.items():
        node = nbformat.read(executed / item.notebook, as_version=4)
        tags = [cell.metadata.get("tags", []) for cell in node.cells]
        if any("injected-parameters" in cell_tags for cell_tags in tags):
            # two parameter cells on one page confuse: the injected one is what ran
            next(cell_tags for cell_tags in tags if "parameters" in cell_tags).append("remove-cell")
        for cell in node.cells:
            fold_parameters(cell)
        node.cells.append(
            nbformat.v4.new_markdown_cell(f"{{doc}}`How this page was made <../{made.FOLDER}/{identifier}>`", id="made")
        )
        nbformat.write(node, target / "notebooks" / item.notebook)
    if (root / "figures").is_dir():
        shutil.copytree(root / "figures", target / "figures")
    static = target / "book" / "_static"
    mathjax.copy_to(static / "mathjax")
    course.write(root, static / "course", mathjax_folder="../mathjax", archives=True)
