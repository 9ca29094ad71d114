"""What a computation cost: FLOPs of its matrix products and the peak of its live tensor bytes, counted exactly.

Counts do not depend on the load of the machine, as seconds and resident memory do.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
# products of a matrix and a vector, and sums in place, which torch's own counter leaves out
_EXTRA: dict[Any, Callable[..., int]] = {
    aten.mv: lambda a, x, **_: 2 * a.numel(),
    aten.addmv: lambda y, a, x, **_: 2 * a.numel(),
    aten.dot: lambda a, b, **_: 2 * a.numel(),
    aten.addmm_: lambda y, a, b, **_: 2 * a.numel() * b.shape[1],
}


class Meter(TorchDispatchMode):
    """Context that counts what happens inside it, on any device.

    Attributes:
        flops: FLOPs of matrix products (mm, bmm, addmm, attention, convolution; mv, dot). Elementwise work is not counted.
        live: Bytes of the tensors made inside that are still alive. Work space inside kernels is not seen.
        peak: The largest value of `live` so far.

    Costs 30 to 50 microseconds an operation, which on models below a million parameters may double the time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.live = self.peak = 0
        self._storages: dict[int, tuple[weakref.ref[Any], int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        count, fresh = _kind(func)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=out)
        if fresh:
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, Tensor):
                    self._watch(tensor)
        return out

    def _watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return
        self._storages[key] = (weakref.ref(storage, lambda _: self._forget(key)), size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int) -> None:
        _, size = self._storages.pop(key)
        self.live -= size


@cache
def _kind(func: Any) -> tuple[Callable[..., int] | None, bool]:
    """How an operation's FLOPs are counted, if at all; and whether its outputs are new memory."""
    packet = func._overloadpacket
    new = not any(result.alias_info for result in func._schema.returns)
    return flop_registry.get(packet) or _EXTRA.get(packet), new
