"""Writing a model in the number format that it was stored in, although it is worked on in float32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from unlearn_lib.errors import NumericsError, unknown
from unlearn_lib.shards import own

WRITTEN = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
AS_STORED = "stored"


def check_written(dtype: str) -> None:
    """Refuse what is no format to write in.

    Raises:
        InputError: It lists those that are.
    """
    if dtype not in (AS_STORED, *WRITTEN):
        raise unknown("dtype", dtype, (AS_STORED, *WRITTEN))


def formats_to_write(model: Any, stored: Mapping[str, torch.dtype], dtype: str = AS_STORED) -> dict[str, torch.dtype]:
    """The format that each weight is to be written in, by its name; of a peft model those of its adapter alone.

    Args:
        model: As worked on.
        stored: The formats in its files by name, and under "" the main one, for names that are others there; may be empty.
        dtype: `"stored"`, or one of `WRITTEN` for all.
    """
    names = [name for name, p in model.named_parameters() if p.requires_grad or not hasattr(model, "peft_config")]
    if dtype != AS_STORED:
        return dict.fromkeys(names, WRITTEN[dtype])
    return {name: stored.get(name, stored.get("", torch.float32)) for name in names}


@torch.no_grad()
def round_weights(model: Any, formats: Mapping[str, torch.dtype]) -> None:
    """Give every weight the value that it will have when it is written in its format; it keeps the format it has.

    Raises:
        NumericsError: A number is too large for its format.
    """
    for name, p in model.named_parameters():
        if name in formats:
            rows = own(p)
            rounded = rows.to(formats[name])
            if bool((rounded.isinf() & rows.isfinite()).any()):
                raise NumericsError(
                    f"{name} has numbers of size {rows.abs().max():.3g}, too large for {plain(formats[name])}; write float32 or bfloat16"
                )
            rows.copy_(rounded)


def plain(dtype: torch.dtype) -> str:
    """`torch.bfloat16` as `bfloat16`."""
    return str(dtype).removeprefix("torch.")


def summary(formats: Mapping[str, torch.dtype]) -> str:
    """The formats by name, the same one once: `bfloat16`, or `bfloat16, float32`."""
    return ", ".join(sorted({plain(dtype) for dtype in formats.values()}))
