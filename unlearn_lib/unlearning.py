"""`unlearn`: every method behind one call."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearn_lib.data.batches import Encoded, context_length, encode
from unlearn_lib.errors import InputError, unknown
from unlearn_lib.methods import METHODS, Inputs
from unlearn_lib.methods.base import Progress
from unlearn_lib.models import load_model


@dataclass
class Cost:
    """What a run took. `gradient_evaluations` counts sequences whose gradient was taken (one forward and one backward pass)."""

    seconds: float
    gradient_evaluations: int


@dataclass
class Result:
    """What `unlearn` returns.

    `model` is a new model, `tokenizer` the one given; `history` has one dict per step; `config` holds every option with its
    value; `details` what the method found on its way (for the Fisher methods `terms`, the recursion terms used); `warnings` are
    sentences for the user.
    """

    model: Any
    tokenizer: Any
    history: list[dict[str, float]]
    cost: Cost
    config: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def unlearn(
    model: Any,
    tokenizer: Any,
    *,
    forget: Any,
    retain: Any = None,
    base: str | Path | Any = None,
    method: str = "fisher-removal",
    seed: int = 0,
    max_length: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Remove the influence of `forget` from a copy of `model`.

    Args:
        model: A transformers causal language model; it is left unchanged.
        tokenizer: Its tokenizer.
        forget: D-, a `datasets.Dataset` or a sequence of dicts with the column `text` (or `prompt` and `completion`).
        retain: D+, likewise; needed by all methods but `gradient-ascent`. Its exact duplicates of forget texts are dropped.
        base: The checkpoint that `retrain` starts from: a model, or anything `load_model` takes.
        method: A name in `unlearn_lib.methods.METHODS`.
        seed: Seeds every draw: data order, noise.
        max_length: Longer texts are cut to this many tokens; default: the model's context.
        progress: Called with (step, steps, loss) during long work.
        **options: The method's options (`preset="paper"`, `step=...`, `damping=...`); see its class.

    Raises:
        InputError: Unknown method or option, an empty set, a missing input.
        NumericsError: A loss or gradient is not finite.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    chosen = METHODS[method].from_options(options)
    for need, given in (("retain", retain), ("base", base)):
        if need in chosen.needs and given is None:
            raise InputError(f"method {method!r} needs {need}=...; {_NEEDS[need]}")
    length = max_length or context_length(model, tokenizer)
    forget_set = _encoded("forget", forget, tokenizer, length)
    retain_set = _encoded("retain", retain, tokenizer, length) if retain is not None else Encoded((), 0)
    forgotten = set(forget_set.examples)
    kept = tuple(example for example in retain_set.examples if example not in forgotten)
    warnings = _warnings(forget_set, retain_set, len(retain_set) - len(kept), length)
    if retain is not None and not kept:
        raise InputError("every retain text is also in the forget set, so nothing is left to retain; check the two files")

    inputs = Inputs(forget_set.examples, kept, _base_loader(base), seed, progress)
    start = time.perf_counter()
    outcome = chosen.run(copy.deepcopy(model).eval(), inputs)
    cost = Cost(time.perf_counter() - start, outcome.gradient_evaluations)
    config = {"method": method, "seed": seed, "max_length": length, **chosen.model_dump()}
    return Result(outcome.model, tokenizer, outcome.history, cost, config, outcome.details, warnings)


_NEEDS: Mapping[str, str] = {
    "retain": "the texts the model should keep (D+)",
    "base": "the checkpoint from before training on the data, as a folder, a name or a model",
}


def _encoded(name: str, rows: Any, tokenizer: Any, length: int) -> Encoded:
    if rows is None or len(rows) == 0:
        raise InputError(f"the {name} set is empty; give at least one text")
    return encode(rows, tokenizer, length)


def _warnings(forget: Encoded, retain: Encoded, dropped: int, length: int) -> list[str]:
    found = []
    if dropped:
        found.append(f"{dropped} retain texts are exact duplicates of forget texts and were dropped from the retain set")
    for name, encoded in (("forget", forget), ("retain", retain)):
        if encoded.cut:
            found.append(f"{encoded.cut} {name} texts are longer than {length} tokens and were cut")
    return found


def _base_loader(base: Any) -> Any:
    if base is None:
        return None
    if isinstance(base, (str, Path)):
        return lambda: load_model(base)[0]
    return lambda: copy.deepcopy(base)
