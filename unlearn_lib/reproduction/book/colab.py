"""Notebooks that run where the repository is not: a first cell that fetches it and installs what is missing.

`python -m unlearn_lib.reproduction.book.colab OWNER/NAME FOLDER` writes them to FOLDER. The committed notebooks do not have this cell, as
a notebook cannot know where it was opened from; the workflow that publishes the book keeps the branch `colab` up to date with them,
and the book's buttons lead there.
"""

from __future__ import annotations

from pathlib import Path

import click

BRANCH = "colab"
PURPOSE = "Elsewhere than in a checkout (on Colab, say): fetch the repository, and install what is missing."
CELL = """# {purpose}
import importlib.util
import subprocess
import sys
from pathlib import Path

if importlib.util.find_spec("unlearn_lib") is None:
    folder = Path("{name}").resolve()
    if not folder.exists():
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", "{address}", str(folder)], check=True)
    # what is installed already and new enough stays as it is, torch above all
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--editable", f"{{folder}}[book,dp,lora]"], check=True)
    sys.path.insert(0, str(folder))"""


def setup_cell(address: str) -> str:
    """The source of the first cell, for a repository that `git clone` finds at `address`."""
    name = address.rstrip("/").rpartition("/")[2].removesuffix(".git")
    return CELL.format(purpose=PURPOSE, name=name, address=address)


def write(root: Path, address: str, target: Path) -> list[Path]:
    """Write all notebooks of the checkout at `root` to `target`, each with the first cell; returns their paths."""
    import nbformat

    target.mkdir(parents=True, exist_ok=True)
    written = []
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        node = nbformat.read(path, as_version=4)
        cell = nbformat.v4.new_code_cell(setup_cell(address), id="fetch-and-install")
        at = 1 if node.cells[0].cell_type == "markdown" else 0  # the title first
        node.cells.insert(at, cell)
        nbformat.write(node, target / path.name)
        written.append(target / path.name)
    return written


@click.command()
@click.argument("repository")
@click.argument("folder", type=click.Path(path_type=Path))
def main(repository: str, folder: Path) -> None:
    """Write the notebooks for REPOSITORY (owner/name on GitHub, or anything that git can clone) to FOLDER."""
    from unlearn_lib.reproduction.checkout import project_root

    address = f"https://github.com/{repository}" if repository.count("/") == 1 and not Path(repository).exists() else repository
    click.echo(f"{len(write(project_root(), address, folder))} notebooks for {address}: {folder}")


if __name__ == "__main__":
    main()
