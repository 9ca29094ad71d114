"""Series of requests: many small ones in a row, and single ones of growing size; the last two criteria of MUSE (arXiv 2407.06460).

consecutive   sustainability: each request is carried out on the model that the one before it left
growing       scalability: each request is carried out on the original model
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from unlearn_lib.data.given import rows_of
from unlearn_lib.data.rows import Row, whole_text
from unlearn_lib.errors import InputError
from unlearn_lib.unlearning.cost import Cost
from unlearn_lib.unlearning.unlearn import Result, unlearn

M = TypeVar("M")


@dataclass(frozen=True, eq=False)
class Served(Generic[M]):
    """A model in a series of requests.

    Attributes:
        number: Which request was carried out last, from 1; 0 is the original model.
        texts: How many rows that request had.
        forgotten: How many different texts have been forgotten up to here: in a series of consecutive requests those of the earlier ones,
            too.
        measured: What `measure` gave for the model.
        cost: What the request took; None for the original model.
        warnings: What `unlearn` said of it.
    """

    number: int
    texts: int
    forgotten: int
    measured: M
    cost: Cost | None = None
    warnings: tuple[str, ...] = ()


def consecutive(
    model: Any,
    tokenizer: Any,
    requests: Sequence[Any],
    measure: Callable[[Any], M],
    *,
    retain: Any = None,
    seed: int = 0,
    **options: Any,
) -> list[Served[M]]:
    """Carry out requests one after another, each on the model that the one before it left, and measure after each.

    Args:
        model, tokenizer: The original model, which is left as it is, and its tokenizer.
        requests: What is to be forgotten, request by request, each as `forget` of `unlearn`.
        measure: Takes a model and gives what is to be kept of it, such as `lambda model: muse_scores(model, tokenizer, task)`. It must
            leave the model as it is.
        retain: As of `unlearn`. From every request on, it is without the texts of that request and of all before it, so that nothing
            forgotten is learnt again. Texts of later requests stay in it: nobody knows yet that they will be asked for.
        seed: Of the first request; each further one has the next number, so that they do not repeat the same draws.
        **options: Further arguments of `unlearn`: `method`, `holdout`, `base`, `batch_size`, the method's options, ...

    Returns:
        One `Served` for the original model and one for every request, in order.

    Raises:
        InputError: No requests, a request without texts, nothing left to retain, or what `unlearn` refuses.
        NumericsError: As of `unlearn`; the request that failed ends the series.

    Cost: that of the requests and of one measurement more; three models in memory at most.
    """
    asked = _asked(requests)
    kept = None if retain is None else rows_of(retain, "retain")
    found, forgotten = [Served(0, 0, 0, measure(model))], set[str]()
    for number, forget in enumerate(asked, 1):
        forgotten |= _contents(forget)
        kept = None if kept is None else _without(kept, forgotten, number)
        result = unlearn(model, tokenizer, forget=forget, retain=kept, seed=seed + number - 1, **options)
        model = result.model
        found.append(_served(number, forget, len(forgotten), result, measure))
    return found


def growing(
    model: Any,
    tokenizer: Any,
    requests: Sequence[Any],
    measure: Callable[[Any], M],
    *,
    retain: Any = None,
    seed: int = 0,
    **options: Any,
) -> list[Served[M]]:
    """Carry out requests of growing size, each by itself on the original model, and measure after each.

    Args:
        model, tokenizer, measure, options: As of `consecutive`.
        requests: What is to be forgotten, the smallest request first; in MUSE each contains the one before it.
        retain: As of `unlearn`. From every request it is without that request's texts alone.
        seed: Of every request, so that they differ in their texts alone.

    Returns:
        One `Served` for the original model and one for every request, in order.

    Raises:
        InputError: No requests, a request without texts, one with fewer texts than the one before it or as many, nothing left to
            retain, or what `unlearn` refuses.
        NumericsError: As of `unlearn`; the request that failed ends the series.

    Cost: that of the requests and of one measurement more; two models in memory at most.
    """
    asked = _asked(requests)
    sizes = [len(_contents(forget)) for forget in asked]
    if sizes != sorted(set(sizes)):
        raise InputError(f"the requests have {sizes} different texts, which do not grow; give each more than the one before it")
    kept = None if retain is None else rows_of(retain, "retain")
    found = [Served(0, 0, 0, measure(model))]
    for number, (size, forget) in enumerate(zip(sizes, asked, strict=True), 1):
        left = None if kept is None else _without(kept, _contents(forget), number)
        result = unlearn(model, tokenizer, forget=forget, retain=left, seed=seed, **options)
        found.append(_served(number, forget, size, result, measure))
    return found


def _asked(requests: Sequence[Any]) -> list[list[Row]]:
    """The rows of all requests, read before the first is carried out."""
    if isinstance(requests, str) or not len(requests):
        raise InputError("a series takes at least one request; give a list of data sets, one for each request")
    found = [rows_of(request, f"request {number}") for number, request in enumerate(requests, 1)]
    empty = next((number for number, rows in enumerate(found, 1) if not rows), None)
    if empty is not None:
        raise InputError(f"request {empty} has no texts; give at least one, or leave the request out")
    return found


def _contents(rows: Sequence[Row]) -> set[str]:
    """What the rows say, prompt and completion joined, so that a text is found again whose prompt is another part of it."""
    return {whole_text(row) for row in rows}


def _without(kept: Sequence[Row], forgotten: set[str], number: int) -> list[Row]:
    left = [row for row in kept if whole_text(row) not in forgotten]
    if not left:
        raise InputError(f"with request {number} every retain text has been forgotten, so nothing is left to retain; give more")
    return left


def _served(number: int, forget: Sequence[Row], forgotten: int, result: Result, measure: Callable[[Any], M]) -> Served[M]:
    return Served(number, len(forget), forgotten, measure(result.model), result.cost, tuple(result.warnings))
