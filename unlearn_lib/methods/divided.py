"""Which methods work on weights that are divided among processes (`unlearn_lib.shards`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unlearn_lib.errors import InputError
from unlearn_lib.methods.base import Method

KRONECKER = "solver=kfac or identity"
ABLE: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "gradient-ascent": ("stop=epochs or calibrate", lambda method: method.stop != "memorisation"),
    **{name: ("", lambda _: True) for name in ("gradient-difference", "npo", "simnpo", "wga", "undial", "dpo", "kfac-newton")},
    "fisher-removal": (KRONECKER, lambda method: method.solver in ("kfac", "identity")),
    "constrained-newton": (
        f"{KRONECKER}, no budget, written=false",
        lambda method: method.solver in ("kfac", "identity") and method.budget is None and not method.written,
    ),
}
"""By a method's name the options that it takes there, in words, and whether they are these."""


def can_be_divided(method: Method) -> bool:
    """Whether the method works so with these options."""
    _, able = ABLE.get(method.name, ("", lambda _: False))
    return able(method)


def check_divided(method: Method) -> None:
    """Refuse a method that takes a model that is whole, or whose passes through the model are not the same in every process.

    Raises:
        InputError: It names the methods that work.
    """
    if can_be_divided(method):
        return
    known = ", ".join(f"{name} ({options})" if options else name for name, (options, _) in ABLE.items())
    raise InputError(
        f"{method.name} with these options does not work on weights that are divided among processes (--shard-weights), because it takes a "
        f"model that is whole, or passes that only some processes make; what works: {known}"
    )
