"""Whether this process is one of several that `torchrun` (or `accelerate launch`) has started together, by the variables that it sets."""

from __future__ import annotations

import os


def started() -> bool:
    """Whether there are others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def speaks() -> bool:
    """Whether this process is the only one, or the first."""
    return not started() or os.environ.get("RANK", "0") == "0"


def place() -> str:
    """Which process this is of how many, to put behind a name; nothing where it is the only one."""
    return f" (process {os.environ.get('RANK', '0')} of {os.environ['WORLD_SIZE']})" if started() else ""


def processes_here() -> int:
    """How many of the processes run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
