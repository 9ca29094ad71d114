"""Which methods work on weights that are divided among processes (`unlearn_lib.shards`), of which there is no copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from unlearn_lib.errors import InputError
from unlearn_lib.methods.base import Method

ABLE: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "gradient-ascent": ("stop=epochs or calibrate", lambda method: method.stop != "memorisation"),
    "gradient-difference": ("retain_loss=nll", lambda method: not method.uses_original),
    "simnpo": ("retain_loss=nll", lambda method: not method.uses_original),
    "wga": ("retain_loss=nll", lambda method: not method.uses_original),
    "fisher-removal": ("solver=kfac", lambda method: method.solver in ("kfac", "identity")),
    "kfac-newton": ("any options", lambda method: True),
}
"""By a method's name the options that it takes there, in words, and whether they are these."""


def check_divided(method: Method) -> None:
    """Refuse a method that keeps a copy of the original model, or whose passes through the model are not the same in every process.

    Raises:
        InputError: It names the methods that work.
    """
    _, able = ABLE.get(method.name, ("", lambda _: False))
    if able(method):
        return
    known = "; ".join(f"{name} ({options})" for name, (options, _) in ABLE.items())
    raise InputError(
        f"{method.name} with these options does not work on weights that are divided among processes (--shard-weights), because it needs "
        f"a copy of the whole model or passes that only some processes make; what works: {known}"
    )
