"""`unlearn`: every method behind one call."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from unlearn_lib.cost import Cost, Watch
from unlearn_lib.curvature import Solution, trainable
from unlearn_lib.curvature.risk import check_adapter
from unlearn_lib.data.batches import Encoded, Example, encode, make_batches, of_full_length, sequence_length
from unlearn_lib.data.given import rows_of
from unlearn_lib.data.overlap import near_duplicates, without
from unlearn_lib.errors import InputError
from unlearn_lib.losses import evaluate, without_autocast
from unlearn_lib.methods import Inputs, Method, choose
from unlearn_lib.metrics.indistinguishable import kolmogorov_smirnov
from unlearn_lib.models import load_model
from unlearn_lib.suited import check_tokenizer
from unlearn_lib.training import Progress


@dataclass
class Result:
    """What `unlearn` returns.

    `model` is a new model, `tokenizer` the one given; `history` has one dict per step; `solution` is the last linear solve of
    a second-order method; `config` holds every option with its value; `details` what the method found on its way (goal and
    forget loss reached, damping, terms; with a holdout `kolmogorov_smirnov` on the half that was not used to stop); `warnings`
    are sentences for the user.
    """

    model: Any
    tokenizer: Any
    history: list[dict[str, float]]
    cost: Cost
    config: dict[str, Any]
    solution: Solution | None = None
    details: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


@dataclass
class Prepared:
    """A request that has been checked: the method, its inputs, the other half of the holdout, and what was noticed."""

    method: Method
    inputs: Inputs
    holdout_for_report: Sequence[Example]
    length: int
    warnings: list[str]


def unlearn(
    model: Any,
    tokenizer: Any,
    *,
    forget: Any,
    retain: Any = None,
    holdout: Any = None,
    base: str | Path | Any = None,
    method: str = "fisher-removal",
    seed: int = 0,
    batch_size: int = 8,
    max_length: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Remove the influence of `forget` from a copy of `model`.

    Args:
        model: A transformers causal language model, or a peft adapter on one (then only the adapter changes); it is left unchanged.
            One in bfloat16 is worked on in float32, and the result is in bfloat16 again.
        tokenizer: Its tokenizer.
        forget: D-, a `datasets.Dataset` or a list of dicts with the column `text` (or `prompt` and `completion`, or `messages`); or
            whatever else `rows_of` takes: a list of strings, a DataFrame, the path of a file, ...
        retain: D+, likewise; needed by most methods. Its exact duplicates of forget texts are dropped. With a `retain_limit` a part
            of it is held aside to measure the limit on.
        holdout: Texts of the same kind that were never trained on, needed by `step="calibrate"` (the default of
            `fisher-removal`), which stops where the forget loss reaches their mean loss. Half of them are kept for the report.
        base: The checkpoint that `retrain` starts from: a model, or anything `load_model` takes.
        method: A name in `unlearn_lib.methods.METHODS`.
        seed: Seeds every draw: data order, noise, halves of the holdout.
        batch_size: Sequences that go through the model at a time where the grouping does not change the result.
        max_length: Longer texts are cut to this many tokens; default: the model's context.
        progress: Called with (step, steps, loss) during long work.
        **options: The method's options (`preset="paper"`, `step=...`, `damping=...`); see its class.

    Raises:
        InputError: Unknown method or option, an empty set, a missing input.
        NumericsError: A loss or gradient is not finite, or a solver did not reach its tolerance.
    """
    if tokenizer is None:
        raise InputError("texts cannot be encoded without the model's tokenizer; give it as the second argument")
    prepared = prepare(
        model,
        tokenizer,
        forget=forget,
        retain=retain,
        holdout=holdout,
        base=base,
        method=method,
        seed=seed,
        batch_size=batch_size,
        max_length=max_length,
        options=options,
    )
    return carry_out(prepared, model, tokenizer, progress)


@without_autocast()
def carry_out(prepared: Prepared, model: Any, tokenizer: Any, progress: Progress | None = None) -> Result:
    """Run the method of a prepared request: the second half of `unlearn`."""
    chosen, inputs = prepared.method, prepared.inputs
    inputs.progress = progress
    with Watch(model.device) as watch:
        own, narrow = copy.deepcopy(model).eval(), _narrow(model)
        outcome = chosen.run(own.float() if narrow else own, inputs)
        if narrow:
            outcome.model.to(model.dtype)
    cost = Cost(watch.seconds, outcome.gradient_evaluations, watch.peak_memory_bytes)
    settings = {"method": chosen.name, "seed": inputs.seed, "batch_size": inputs.batch_size, "max_length": prepared.length}
    if prepared.holdout_for_report:
        losses = (
            evaluate(outcome.model, make_batches(examples, inputs.batch_size, model.device))
            for examples in (inputs.forget, prepared.holdout_for_report)
        )
        outcome.details["kolmogorov_smirnov"] = asdict(kolmogorov_smirnov(*losses))
    return Result(
        outcome.model,
        tokenizer,
        outcome.history,
        cost,
        settings | chosen.model_dump(),
        outcome.solution,
        outcome.details,
        prepared.warnings + outcome.warnings,
    )


def _narrow(model: Any) -> bool:
    """Whether what changes is in a narrower format than float32. Steps of less than half the last digit (1 in 256 for bfloat16)
    would be lost there, weight by weight, so methods work in float32 and the result is rounded once."""
    return any(p.dtype.itemsize < torch.float32.itemsize for p in trainable(model).values())


def prepare(
    model: Any,
    tokenizer: Any,
    *,
    forget: Any,
    retain: Any = None,
    holdout: Any = None,
    base: str | Path | Any = None,
    method: str = "fisher-removal",
    seed: int = 0,
    batch_size: int = 8,
    max_length: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Prepared:
    """Check a request and encode its texts: all that `unlearn` does before the method runs. Arguments as of `unlearn`.

    For a plan `tokenizer` may be None: every text then counts as `max_length` tokens.
    """
    check_adapter(model)
    if tokenizer is not None:
        check_tokenizer(model, tokenizer)
    given = {"retain": retain, "holdout": holdout, "base": base}
    chosen = choose(method, options or {}, [name for name, value in given.items() if value is not None])
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    length = sequence_length(model, tokenizer, max_length)
    sets = {"forget": _encoded("forget", forget, tokenizer, length)}
    for name, rows in (("retain", retain), ("holdout", holdout)):
        sets[name] = _encoded(name, rows, tokenizer, length) if rows is not None else Encoded((), 0)
    forget_set, retain_set, holdout_set = sets["forget"].examples, sets["retain"].examples, sets["holdout"].examples
    kept = without(retain_set, forget_set)
    unseen = without(holdout_set, [*forget_set, *kept])
    if retain is not None and not kept:
        raise InputError("every retain text is also in the forget set, so nothing is left to retain; check the two files")
    if holdout is not None and len(unseen) < 2:
        raise InputError(
            "fewer than two held-out texts are left that are neither in the forget nor in the retain set; give more"
        )
    warnings = _warnings(sets, kept, unseen, length)
    order = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(seed)).tolist()
    half = len(order) // 2
    inputs = Inputs(
        forget_set,
        kept,
        _base_loader(base, _narrow(model)),
        seed,
        holdout=[unseen[i] for i in order[:half]],
        batch_size=batch_size,
    )
    return Prepared(chosen, inputs, [unseen[i] for i in order[half:]], length, warnings)


def _encoded(name: str, rows: Any, tokenizer: Any, length: int) -> Encoded:
    rows = rows_of(rows, name)
    if not rows:
        raise InputError(f"the {name} set is empty; give at least one text")
    return of_full_length(rows, length) if tokenizer is None else encode(rows, tokenizer, length)


def _warnings(sets: Mapping[str, Encoded], kept: Sequence[Example], unseen: Sequence[Example], length: int) -> list[str]:
    found, forget = [], sets["forget"].examples
    if dropped := len(sets["retain"]) - len(kept):
        found.append(f"{dropped} retain texts are exact duplicates of forget texts and were dropped from the retain set")
    if dropped := len(sets["holdout"]) - len(unseen):
        found.append(f"{dropped} held-out texts are also in the forget or retain set and were dropped from the holdout")
    if near := len(near_duplicates(kept, forget)):
        found.append(
            f"{near} retain texts share half or more of their runs of 8 tokens with a forget text; they stay in the retain set, and what "
            "they say may not be forgotten"
        )
    for name, encoded in sets.items():
        if encoded.cut:
            found.append(f"{encoded.cut} {name} texts are longer than {length} tokens and were cut")
    return found


def _base_loader(base: Any, widen: bool) -> Any:
    if base is None:
        return None
    if isinstance(base, (str, Path)):
        return lambda: load_model(base)[0]
    return lambda: copy.deepcopy(base).float() if widen else copy.deepcopy(base)
