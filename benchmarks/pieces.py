"""Benchmarks that are computed in pieces: what a command says and how it ends when its time is over."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from unlearn_lib.checkpoints import NOT_FINISHED, OutOfTimeError


@contextmanager
def in_pieces() -> Iterator[None]:
    """Inside, running out of time ends the command with the exit code that asks for another call."""
    try:
        yield
    except OutOfTimeError:
        click.echo(f"not finished; the same command continues (exit code {NOT_FINISHED})")
        sys.exit(NOT_FINISHED)
