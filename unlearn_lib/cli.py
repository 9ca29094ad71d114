"""The `unlearn` command. Exit codes: 0 done, 2 bad input, 3 the numerics were refused."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from unlearn_lib import __version__
from unlearn_lib.errors import HubUnavailableError, InputError, NumericsError


def _plain_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the library's errors into one line on stderr and an exit code, without a traceback."""

    @wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (InputError, HubUnavailableError) as error:
            click.echo(f"unlearn: {error.args[0]}", err=True)
            sys.exit(2)
        except NumericsError as error:
            click.echo(f"unlearn: {error}", err=True)
            sys.exit(3)

    return wrapper


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="unlearn")
def main() -> None:
    """Second-order machine unlearning of causal language models, and the reproduction of arXiv 2403.10557."""


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
        click.echo(f"{row['name']}: {row['source']}{needs}")
        click.echo("    " + ", ".join(f"{option}={default}" for option, default in row["options"].items()))


@main.command()
@click.argument("ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All tables and figures.")
@click.option("--list", "listing", is_flag=True, help="One line for each id.")
@click.option("--runs", is_flag=True, help="First compute the missing records into results/; resumes when interrupted.")
@click.option(
    "--store-outputs", is_flag=True, help="Also keep the outputs at the defaults in notebooks/, where they are committed."
)
@click.option("-p", "pairs", multiple=True, metavar="KEY=VALUE", help="A parameter of the notebook; may be repeated.")
@_plain_errors
def reproduce(
    ids: tuple[str, ...], everything: bool, listing: bool, runs: bool, store_outputs: bool, pairs: tuple[str, ...]
) -> None:
    """Regenerate tables and figures: run their notebooks into build/executed/.

    By default a notebook draws from the committed records and recomputes a small live part; `-p recompute=true` computes all its
    records anew, into build/results/.
    """
    from unlearn_lib.reproduction.inventory import ITEMS, find, project_root

    if listing:
        for identifier, item in ITEMS.items():
            anew = f"all runs anew: {item.minutes} minutes on two cores" if item.minutes else "no runs"
            click.echo(f"{identifier}  {item.title}  ({item.notebook}; {anew})")
        return
    chosen = {identifier: find(identifier) for identifier in (ITEMS if everything else ids)}
    if not chosen:
        raise InputError(f"name what to reproduce, or use --all or --list; ids: {', '.join(ITEMS)}")
    from unlearn_lib.reproduction import notebooks

    root = project_root()
    given = dict(_pair(pair) for pair in pairs)
    work = [(root / "notebooks" / item.notebook, item) for item in chosen.values()]
    values = {path: notebooks.parse(path, given) for path, _ in work}
    if runs:
        from unlearn_lib.reproduction import scenarios, settings, store

        for identifier in chosen:
            scenarios.run(settings.grid(identifier), store.RunStore(root / "results" / "nano"), click.echo)
    for path, item in work:
        if store_outputs:
            notebooks.store_outputs(path)
            click.echo(f"outputs stored: {os.path.relpath(path)}")
        target = root / "build" / "executed" / item.notebook
        ran = notebooks.execute(path, target, values[path], root)
        click.echo(f"{'executed' if ran else 'up to date'}: {os.path.relpath(target)}")


@main.command()
@_plain_errors
def book() -> None:
    """Run the notebooks that are not up to date and build the HTML book."""
    from unlearn_lib.reproduction.book import build
    from unlearn_lib.reproduction.inventory import project_root

    page = build(project_root(), click.echo)
    click.echo(f"the book: {os.path.relpath(page, Path.cwd())}")


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise InputError(f"a parameter is given as key=value, got {text!r}")
    return key, value
