"""`unlearn course`: what a lecturer takes away, and the pages of the book that say how long a course takes."""

from __future__ import annotations

import os
from pathlib import Path

import click

from unlearn_lib.command.plain import plain_errors
from unlearn_lib.errors import InputError


@click.command()
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the material; files of an earlier call are replaced.")
@click.option(
    "--pages",
    is_flag=True,
    help="Count the chapters anew and write book/reading_times.md and book/course/plan.md of the checkout.",
)
@plain_errors
def course(out: Path | None, pages: bool) -> None:
    """Write the material of a course: notebooks for students, notebooks with solutions, and slides.

    OUT/student has the chapters with an empty answer in place of every solution, OUT/solutions has them in full, and OUT/slides a page
    for every week, which needs no network.
    """
    from unlearn_lib.files import write_text
    from unlearn_lib.reproduction.book import course as material
    from unlearn_lib.reproduction.book import teaching
    from unlearn_lib.reproduction.checkout import project_root

    if out is None and not pages:
        raise InputError("say where the material goes with --out DIR, or use --pages to write the pages of the book")
    root = project_root()
    if out is not None:
        made = material.write(root, out)
        click.echo(f"{len(made)} files: {out}")
    if pages:
        for path, text in teaching.pages(root).items():
            write_text(root / path, text)
            click.echo(f"written: {os.path.relpath(root / path)}")
