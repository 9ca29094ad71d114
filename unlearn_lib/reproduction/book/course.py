"""What a lecturer takes away: notebooks for students, notebooks with solutions, and the slides of every week."""

from __future__ import annotations

import zipfile
from pathlib import Path

from unlearn_lib.files import new_file, write_text
from unlearn_lib.reproduction.book import mathjax, slides, students, weeks


def write(root: Path, target: Path, *, mathjax_folder: str | None = None, archives: bool = False) -> list[Path]:
    """Write the material of the course; returns the paths of the notebooks and slides, or of the archives and slides.

    Args:
        root: The checkout.
        target: The folder: `student/` and `solutions/` get a notebook for each chapter, `slides/` a page for each week.
        mathjax_folder: Where MathJax's files are, seen from the slides; None copies them to `slides/mathjax`.
        archives: Pack the notebooks into `student.zip` and `solutions.zip`, and put the slides beside them: for the book.

    Raises:
        InputError: A chapter is missing, or its exercises and solutions do not fit together.
    """
    masters = weeks.masters(root)
    made = [_packed(masters, target, part) for part in students.PARTS] if archives else students.write(masters, target)
    folder = target if archives else target / "slides"
    for number in range(1, len(weeks.WEEKS) + 1):
        path = folder / f"week{number}.html"
        write_text(path, slides.week(root, number, mathjax_folder or "mathjax"))
        made.append(path)
    if mathjax_folder is None:
        mathjax.copy_to(folder / "mathjax")
    return made


def _packed(masters: list[Path], target: Path, part: str) -> Path:
    """`target/PART.zip`: the same bytes for the same notebooks."""
    with new_file(target / f"{part}.zip") as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, text in students.texts(masters, part).items():
            entry = zipfile.ZipInfo(f"{part}/{name}", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, text)
    return target / f"{part}.zip"
