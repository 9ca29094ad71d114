"""The number formats of matrix products: what the caller has set for all of a program is left while curvature is measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from unlearn_lib.losses import without_autocast


@contextmanager
def exact_products() -> Iterator[None]:
    """Float32 products with all their digits (no TF32, no bfloat16 passes, no autocast) inside; the caller's settings are restored."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with without_autocast():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


MAKERS = (torch.zeros, torch.ones, torch.empty, torch.full, torch.tensor)


def _is_real(maker: Any, args: Any) -> bool:
    """Whether what is made holds real numbers unless another format is asked for."""
    return maker in (torch.zeros, torch.ones, torch.empty) or isinstance(args[-1], float)


def in_full(params: Iterable[Tensor]) -> AbstractContextManager[Any]:
    """`KeepFloat64` where all of these are in float64, and nothing else where they are not."""
    return KeepFloat64() if all(p.dtype == torch.float64 for p in params) else nullcontext()


class KeepFloat64(TorchFunctionMode):
    """Inside, float64 tensors stay float64 where a model's code asks for float32.

    Transformers' attention computes its softmax, and RMS norms their mean, in float32 whatever the model's format. That is
    more than float16 has, and less than float64: without this a "float64" derivative has errors of 1e-9 to 1e-7. What a model
    makes anew and fills with such numbers is float64, too (XGLM's masks, the spectra of FourierFT).
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in MAKERS and kwargs.get("dtype") in (None, torch.float32) and _is_real(func, args):
            kwargs["dtype"] = torch.float64
        wide = bool(args) and isinstance(args[0], Tensor) and args[0].dtype == torch.float64
        if wide:
            if kwargs.get("dtype") == torch.float32:
                kwargs["dtype"] = torch.float64
            if func is Tensor.float:
                return args[0]
            if func is Tensor.to:
                args = tuple(torch.float64 if argument == torch.float32 else argument for argument in args)
        return func(*args, **kwargs)
