"""`unlearn records`: what `unlearn reproduce --runs` does, in single calls for a workflow engine (`workflow/Snakefile`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from unlearn_lib.command.plain import plain_errors, tell
from unlearn_lib.errors import InputError

if TYPE_CHECKING:
    from unlearn_lib.reproduction.runs.campaign import Campaign

PROFILE = click.option(
    "--profile", default="nano", show_default=True, metavar="NAME", help="Which models, data and sizes: nano, gpu or paper."
)


def _which(command: Callable[..., Any]) -> Callable[..., Any]:
    """The argument and the options that choose tables and figures."""
    everything = click.option("--all", "everything", is_flag=True, help="All tables and figures.")
    return click.argument("ids", nargs=-1)(everything(PROFILE(command)))


@click.group()
def records() -> None:
    """Compute records one at a time, for a workflow engine; on one machine `unlearn reproduce --runs` is simpler."""


@records.command()
@_which
@plain_errors
def missing(ids: tuple[str, ...], everything: bool, profile: str) -> None:
    """List what is missing of tables and figures, as JSON.

    `models` are to be trained or downloaded first (`unlearn records models`). Each of `records` has its file, the key of its original
    model, the file that says that this one is trained, and the record to be computed before it, or null.
    """
    from unlearn_lib.reproduction.runs import single

    click.echo(json.dumps(single.missing(_campaign(ids, everything, profile)), indent=1))


@records.command()
@_which
@plain_errors
def models(ids: tuple[str, ...], everything: bool, profile: str) -> None:
    """Train or download the models that missing records need. An interrupted call goes on where it was."""
    from unlearn_lib.reproduction.runs import single

    single.models(_campaign(ids, everything, profile), tell)


@records.command()
@click.argument("key")
@PROFILE
@plain_errors
def original(key: str, profile: str) -> None:
    """Train one original model, into build/trained/PROFILE/KEY/. An interrupted call goes on where it was."""
    from unlearn_lib.reproduction.checkout import project_root
    from unlearn_lib.reproduction.runs import profiles, single

    single.original(key, profiles.find(profile), project_root(), tell)


@records.command()
@click.argument("file")
@PROFILE
@plain_errors
def run(file: str, profile: str) -> None:
    """Compute one record, FILE as `unlearn records missing` writes it, from the original model that was trained."""
    from unlearn_lib.reproduction.checkout import project_root
    from unlearn_lib.reproduction.runs import profiles, single

    single.record(file, profiles.find(profile), project_root(), tell)


def _campaign(ids: tuple[str, ...], everything: bool, name: str) -> Campaign:
    from unlearn_lib.reproduction.checkout import project_root
    from unlearn_lib.reproduction.inventory import ITEMS, find
    from unlearn_lib.reproduction.runs import profiles
    from unlearn_lib.reproduction.runs.campaign import Campaign

    profile = profiles.find(name)
    chosen = list(ITEMS) if everything else list(ids)
    if not chosen:
        raise InputError(f"name tables and figures, or use --all; ids: {', '.join(ITEMS)}")
    for identifier in chosen:
        find(identifier)
    return Campaign.of(profile, chosen, project_root())
