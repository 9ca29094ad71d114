"""MathJax's files, copied from an installed package, so that formulas are drawn without a network."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from unlearn_lib.errors import InputError

SCRIPT = "tex-mml-chtml.js"
PARTS = (SCRIPT, "output/chtml/fonts/woff-v2", "input/tex/extensions")  # 2 of the package's 20 MB


def copy_to(target: Path) -> None:
    """Put what a page needs of MathJax into the folder `target`; a page loads `target / SCRIPT`.

    Raises:
        InputError: The package that brings it is not installed.
    """
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    if package is None or package.origin is None:
        raise InputError("the package sphinx-mathjax-offline is missing; install the extra: pip install -e '.[book]'")
    source = Path(package.origin).parent / "static" / "mathjax"
    for part in PARTS:
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part, dirs_exist_ok=True)
        else:
            shutil.copy(source / part, target / part)
