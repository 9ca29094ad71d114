"""Whether a torch function keeps sequences apart: slice r of its result depends on slice r of its arguments only.

"Rows" are tensors whose first dimension holds the sequences in order: `[B, ..]`, or `[B*k, ..]` with k slices of each
sequence after one another (OPT's flattened tokens). The rules below are those of the common functions. For a function
without a rule the answer is no, which is never wrong: `capture` then takes another way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Rule = Callable[[Any, Any, list[Tensor], list[Tensor]], bool]  # args, kwargs, results, rows

ELEMENTWISE = """
    abs add addcdiv addcmul alias bfloat16 celu clamp clamp_max clamp_min clip clone contiguous copy cos data div double dropout
    elu erf erfc exp expm1 float gelu half hardsigmoid hardswish hardtanh iadd identity imul isub itruediv leaky_relu lerp log
    log1p logsigmoid masked_fill maximum minimum mish mul nan_to_num neg negative pos pow radd rdiv reciprocal relu relu6
    requires_grad rmul rpow rsqrt rsub rtruediv selu sigmoid silu sin softplus softsign sqrt square sub subtract multiply divide
    tanh threshold to truediv true_divide type type_as where
""".split()
# the functions that act along dimensions given at this place of the arguments, or by the keyword
ALONG = {
    "amax": 1, "amin": 1, "cat": 1, "chunk": 2, "concat": 1, "concatenate": 1, "cummax": 1, "cumprod": 1, "cumsum": 1, "flip": 1,
    "gather": 1, "glu": 1, "index_select": 1, "log_softmax": 1, "logcumsumexp": 1, "logsumexp": 1, "max": 1, "mean": 1, "min": 1,
    "narrow": 1, "norm": 2, "normalize": 2, "prod": 1, "repeat_interleave": 2, "roll": 2, "select": 1, "softmax": 1, "sort": 1,
    "split": 2, "stack": 1, "std": 1, "sum": 1, "tensor_split": 2, "topk": 2, "unbind": 1, "var": 1,
}  # fmt: skip
KEYWORDS = ("dim", "dims", "axis")
RESHAPING = ("view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as")


def keeps_apart(function: Any, args: Any, kwargs: Any, results: Sequence[Tensor], rows: Sequence[Tensor], B: int) -> bool:
    """Whether the results are rows of B sequences, each slice of them from the same slices of `rows`; other tensors have no rows."""
    rule = RULES.get(name_of(function))
    if rule is None or not results or any(not out.ndim or not len(out) or len(out) % B for out in results):
        return False
    return rule(args, kwargs, list(results), list(rows))


def name_of(function: Any) -> str:
    """A torch function's name without the underscores of operators and of work in place; for a property the property's."""
    name: str = getattr(function, "__name__", "")
    if name == "__get__":
        name = getattr(getattr(function, "__self__", None), "__name__", "")
    return name.strip("_")


def works_in_place(function: Any) -> bool:
    """Whether a torch function writes into its first argument."""
    name: str = getattr(function, "__name__", "")
    return name.startswith("__i") or name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def aligned(x: Tensor, out: Tensor) -> bool:
    """Whether an elementwise function takes slice r of x for slice r of its result."""
    return x.ndim == out.ndim and len(x) == len(out)


def _elementwise(args: Any, kwargs: Any, results: list[Tensor], rows: list[Tensor]) -> bool:
    return all(aligned(x, results[0]) for x in rows)


def _first(args: Any, kwargs: Any, results: list[Tensor], rows: list[Tensor]) -> bool:
    """The first argument has the rows, the others are the same for all."""
    x = args[0] if args else kwargs.get("input")
    return x is not None and x.ndim >= 1 and all(row is x for row in rows) and len(results[0]) == len(x)


def _of_matrices(args: Any, kwargs: Any, results: list[Tensor], rows: list[Tensor]) -> bool:
    """linear: its input is at least a matrix, so that its first dimension is not the one that is summed over."""
    x = args[0] if args else kwargs.get("input")
    return x.ndim >= 2 and _first(args, kwargs, results, rows)


def _norm(args: Any, kwargs: Any, results: list[Tensor], rows: list[Tensor]) -> bool:
    """layer_norm, rms_norm: over the last dimensions, the first not among them."""
    shape = args[1] if len(args) > 1 else kwargs.get("normalized_shape", ())
    return len(shape) < results[0].ndim and _first(args, kwargs, results, rows)


def _convolution(args: Any, kwargs: Any, results: list[Tensor], rows: list[Tensor]) -> bool:
    return results[0].ndim == 3 and _first(args, kwargs, results, rows)


def _padding(args: Any, kwargs: Any, results: list[Tensor], rows: list[Tensor]) -> bool:
    pads = args[1] if len(args) > 1 else kwargs.get("pad", ())
    return len(pads) < 2 * results[0].ndim and _first(args, kwargs, results, rows)


def _along(place: int) -> Rule:
    def rule(args: Any, kwargs: Any, results: list[Tensor], rows: list[Tensor]) -> bool:
        given: Any = next((kwargs[key] for key in KEYWORDS if key in kwargs), None)
        if given is None:
            given = args[place] if place < len(args) else None
        dims = [given] if isinstance(given, int) else list(given) if isinstance(given, (tuple, list)) else []
        first = args[0] if args else kwargs.get("input", kwargs.get("tensors"))
        parts = list(first) if isinstance(first, (tuple, list)) else [first]
        if not dims or not all(isinstance(x, Tensor) and x.ndim for x in parts):
            return False
        ndim = results[0].ndim if isinstance(first, (tuple, list)) else parts[0].ndim  # stack makes a dimension
        if any(not isinstance(dim, int) or isinstance(dim, bool) or dim in (0, -ndim) for dim in dims):
            return False
        # parts without rows (zeros, a cache) may stand beside those with
        return all(any(row is x for x in parts) for row in rows) and all(len(out) == len(parts[0]) for out in results)

    return rule


def _reshaping(args: Any, kwargs: Any, results: list[Tensor], rows: list[Tensor]) -> bool:
    """What leaves the order in memory: a sequence's numbers stay together, and fill a whole number of slices."""
    x, out = args[0], results[0]
    return any(row is x for row in rows) and out.numel() == x.numel() and out.dtype == x.dtype


def _transposing(args: Any, kwargs: Any, results: list[Tensor], rows: list[Tensor]) -> bool:
    dims = [*args[1:], *kwargs.values()]
    return all(isinstance(dim, int) and dim not in (0, -args[0].ndim) for dim in dims)


def _permuting(args: Any, kwargs: Any, results: list[Tensor], rows: list[Tensor]) -> bool:
    dims = kwargs.get("dims", args[1:])
    dims = dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims
    return dims[0] in (0, -len(dims))


def _matrix_transpose(args: Any, kwargs: Any, results: list[Tensor], rows: list[Tensor]) -> bool:
    return results[0].ndim >= 3


def _expanding(args: Any, kwargs: Any, results: list[Tensor], rows: list[Tensor]) -> bool:
    return rows[0] is args[0] and aligned(args[0], results[0])


def _indexing(args: Any, kwargs: Any, results: list[Tensor], rows: list[Tensor]) -> bool:
    """x[:, ..], x[..., k]: nothing is chosen along the first dimension, and no more than one index is a tensor."""
    x, index = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
    if len(rows) != 1 or rows[0] is not x or len(results[0]) != len(x) or index[0] is None:
        return False
    chosen = [i for i in index if isinstance(i, (Tensor, list))]
    if len(chosen) > 1 or any(isinstance(i, bool) for i in index):
        return False
    if index[0] is Ellipsis:
        taken = sum(i.ndim if isinstance(i, Tensor) and i.dtype == torch.bool else 1 for i in index[1:] if i is not None)
        return taken < x.ndim
    return isinstance(index[0], slice) and index[0] == slice(None)


def _products(a: Tensor, b: Tensor, rows: list[Tensor]) -> bool:
    a_rows, b_rows = (any(row is x for row in rows) for x in (a, b))
    if a_rows and b_rows:
        return a.ndim == b.ndim >= 3 and len(a) == len(b)
    if a_rows:
        return b.ndim <= 2 <= a.ndim or 3 <= b.ndim <= a.ndim
    return 1 <= a.ndim <= b.ndim and b.ndim >= 3


def _matmul(args: Any, kwargs: Any, results: list[Tensor], rows: list[Tensor]) -> bool:
    return len(args) == 2 and _products(args[0], args[1], rows)


def _rmatmul(args: Any, kwargs: Any, results: list[Tensor], rows: list[Tensor]) -> bool:
    return _products(args[1], args[0], rows)


def _added_matmul(args: Any, kwargs: Any, results: list[Tensor], rows: list[Tensor]) -> bool:
    """addmm, baddbmm: of what is added slice r, or the whole where it has no rows."""
    added, a, b = _given(args, kwargs, ("input",), ("mat1", "batch1"), ("mat2", "batch2"))
    factors = [row for row in rows if row is not added]
    return (len(factors) == len(rows) or aligned(added, results[0])) and (not factors or _products(a, b, factors))


def _given(args: Any, kwargs: Any, *names: tuple[str, ...]) -> list[Any]:
    return [
        args[i] if i < len(args) else next((kwargs[n] for n in options if n in kwargs), None) for i, options in enumerate(names)
    ]


def _einsum(args: Any, kwargs: Any, results: list[Tensor], rows: list[Tensor]) -> bool:
    equation = args[0].replace(" ", "") if isinstance(args[0], str) else ""
    operands = args[1] if len(args) == 2 and isinstance(args[1], (tuple, list)) else args[1:]
    if "->" not in equation or "." in equation:
        return False
    left, right = equation.split("->")
    terms = left.split(",")
    return all(
        term[:1] == right[:1] and right[:1] not in term[1:]
        for term, operand in zip(terms, operands, strict=True)
        if any(row is operand for row in rows)
    )


RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **{name: _along(place) for name, place in ALONG.items()},
    **dict.fromkeys(RESHAPING, _reshaping),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims"), _transposing),
    "permute": _permuting,
    "mT": _matrix_transpose,
    **dict.fromkeys(("expand", "expand_as"), _expanding),
    "getitem": _indexing,
    "linear": _of_matrices,
    "embedding": _first,
    **dict.fromkeys(("layer_norm", "rms_norm"), _norm),
    "conv1d": _convolution,
    "pad": _padding,
    **dict.fromkeys(("matmul", "bmm"), _matmul),
    "rmatmul": _rmatmul,
    **dict.fromkeys(("baddbmm", "addmm"), _added_matmul),
    "einsum": _einsum,
}
