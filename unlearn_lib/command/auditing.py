"""`unlearn audit`: a model and texts in, a folder with a verdict out. All or nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from unlearn_lib.command.plain import plain_errors, tell
from unlearn_lib.errors import InputError

TEXTS = click.Path(path_type=Path)


@click.command()
@click.option("--model", required=True, metavar="NAME|DIR", help="The model that should have forgotten.")
@click.option("--forget", required=True, type=TEXTS, help="Texts that it should have forgotten: JSONL, CSV or Parquet.")
@click.option("--retain", type=TEXTS, help="Texts that it should still know.")
@click.option("--holdout", type=TEXTS, help="Texts of the same kind that it was never trained on.")
@click.option("--original", metavar="NAME|DIR", help="The model from before it forgot.")
@click.option("--retrained", metavar="NAME|DIR", help="A model that was trained without the forget texts.")
@click.option("--base", metavar="NAME|DIR", help="The model from before it was trained on any of the texts.")
@click.option("--out", required=True, type=TEXTS, help="Folder to write; it must not exist.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option(
    "--batch-size", default=8, show_default=True, type=click.IntRange(1), help="Texts that go through a model at a time."
)
@click.option("--max-length", type=int, help="Tokens of a sequence; default: the model's context.")
@click.option("--long-texts", type=click.Choice(["split", "cut"]), default="split", show_default=True)
@click.option("--attacks/--no-attacks", default=True, show_default=True, help="Train, round, prune and ask otherwise.")
@click.option("--relearning-rate", default=5e-5, show_default=True, help="The learning rate of the attack by relearning.")
@click.option("--show-texts", is_flag=True, help="Show what forget texts say in the report; otherwise none is shown.")
@plain_errors
def audit(
    model: str,
    forget: Path,
    retain: Path | None,
    holdout: Path | None,
    original: str | None,
    retrained: str | None,
    base: str | None,
    out: Path,
    seed: int,
    device: str,
    batch_size: int,
    max_length: int | None,
    long_texts: Literal["split", "cut"],
    attacks: bool,
    relearning_rate: float,
    show_texts: bool,
) -> None:
    """Say whether a model has forgotten, by measuring and attacking it.

    Writes OUT/report.json and OUT/report.html: verdict, measures with intervals, attacks, and what was not tested and why. The more
    models it is compared with, the more it can say: the retrained one is the reference for everything.
    """
    from unlearn_lib.audit.auditing import audit as examine
    from unlearn_lib.audit.page import render
    from unlearn_lib.audit.settings import Settings
    from unlearn_lib.data.files import read_rows
    from unlearn_lib.files import new_folder, refuse_to_overwrite, write_text
    from unlearn_lib.models.load import find, load_model
    from unlearn_lib.progress import quiet_libraries

    quiet_libraries()
    try:
        refuse_to_overwrite(out)
        for path in (forget, retain, holdout):
            if path is not None:
                read_rows(path)  # says what is wrong with it before a model is loaded
        for name in (model, original, retrained, base):
            if name is not None:
                find(name)
        with new_folder(out) as folder:
            loaded, tokenizer = load_model(model, device=device)
            found = examine(
                loaded,
                tokenizer,
                forget=forget,
                retain=retain,
                holdout=holdout,
                original=original,
                retrained=retrained,
                base=base,
                settings=Settings(seed, batch_size, max_length, long_texts, attacks=attacks, relearning_rate=relearning_rate),
                progress=lambda doing: tell(f"  {doing}"),
                show_texts=show_texts,
                name=model,
            )
            write_text(folder / "report.json", found.as_json())
            write_text(folder / "report.html", render(found))
    except FileExistsError as error:
        raise InputError(str(error)) from error
    for finding in found.findings:
        tell(f"{finding.question} {finding.answer}: {finding.says}")
    for one in found.skipped:
        tell(f"not tested: {one.name}: {one.why}")
    tell(f"verdict: {found.outcome}. {found.verdict}")
    tell(f"written: {out}")
