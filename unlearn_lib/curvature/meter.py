"""What a computation cost: FLOPs of its matrix products and the peak of its live tensor bytes, counted exactly.

Counts do not depend on the load of the machine, as seconds and resident memory do.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten
# products of a matrix and a vector, which torch's own counter leaves out
_EXTRA: dict[Any, Callable[..., int]] = {
    aten.mv: lambda a, x: 2 * a.numel(),
    aten.addmv: lambda y, a, x: 2 * a.numel(),
    aten.dot: lambda a, b: 2 * a.numel(),
}


class Meter(TorchDispatchMode):
    """Context that counts what happens inside it, on any device.

    Attributes:
        flops: FLOPs of matrix products (mm, bmm, addmm, attention, convolution; mv, dot). Elementwise work is not counted.
        live: Bytes of the tensors made inside that are still alive. Work space inside kernels is not seen.
        peak: The largest value of `live` so far.

    Costs a few microseconds an operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.live = self.peak = 0
        self._storages: dict[int, tuple[weakref.ref[Any], int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in flop_registry:
            self.flops += flop_registry[packet](*args, **kwargs, out_val=out)
        elif packet in _EXTRA:
            self.flops += _EXTRA[packet](*args[:3])
        made = [t for t in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(t, Tensor)]
        if made:
            given = {_key(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
            for tensor in made:
                key = _key(tensor)
                if key not in given and key not in self._storages:
                    self._watch(key, tensor)
        return out

    def _watch(self, key: int, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        self._storages[key] = (weakref.ref(storage, lambda _: self._forget(key)), size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int) -> None:
        _, size = self._storages.pop(key)
        self.live -= size


def _key(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key
