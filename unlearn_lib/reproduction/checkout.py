"""The checkout of this project that notebooks, records and figures lie in."""

from __future__ import annotations

from pathlib import Path

from unlearn_lib.errors import InputError


def project_root(start: str | Path | None = None) -> Path:
    """The checkout that holds `notebooks/` and `results/`: found from `start` (default: the working directory) upwards, then from
    the package's own place, so that notebooks run from any folder.

    Raises:
        InputError: There is none; the library was installed without the project around it.
    """
    first = Path(start or Path.cwd()).resolve()
    for folder in (first, *first.parents, *Path(__file__).resolve().parents):
        if (folder / "notebooks").is_dir() and (folder / "_config.yml").is_file():
            return folder
    raise InputError(
        "no checkout of this project was found around the working directory; clone the repository and run inside it"
    )
