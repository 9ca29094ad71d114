"""`unlearn`: every method behind one call."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from unlearn_lib.curvature import Solution
from unlearn_lib.curvature.risk import check_adapter
from unlearn_lib.data.batches import Encoded, Example, Grouping, LongTexts, encode_set, of_full_length, sequence_length
from unlearn_lib.data.examples import by_text
from unlearn_lib.data.given import rows_of
from unlearn_lib.data.overlap import near_duplicates, without
from unlearn_lib.errors import InputError
from unlearn_lib.losses import without_autocast
from unlearn_lib.methods import METHODS, Inputs, Method, choose
from unlearn_lib.methods.base import Passes
from unlearn_lib.methods.divided import check_divided
from unlearn_lib.methods.resume import Keeper
from unlearn_lib.metrics.indistinguishable import kolmogorov_smirnov
from unlearn_lib.models.forms import form_of, holds_texts
from unlearn_lib.models.load import load_model
from unlearn_lib.models.master_weights import formats, formats_in, give_back, widen
from unlearn_lib.models.suited import check_tokenizer
from unlearn_lib.seeding import own_draws
from unlearn_lib.shards import divided
from unlearn_lib.training.loop import Progress, check_trainable, derivatives
from unlearn_lib.unlearning.cost import Cost, Watch
from unlearn_lib.unlearning.identity import identity
from unlearn_lib.unlearning.outcome import Losses, Measure, look, losses_of, refuse_divergence
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.working import Flags, widened, working_copy

LOOKED_AT = 256
"""Retained texts whose losses are compared before and after, at most."""


@dataclass
class Result:
    """What `unlearn` returns.

    `model` is a new model, `tokenizer` the one given; `history` has one dict per step; `solution` is the last linear solve of
    a second-order method; `config` holds every option with its value; `details` what the method found on its way (goal and
    forget loss reached, damping, terms; with a holdout `kolmogorov_smirnov` on the half that was not used to stop); `warnings`
    are sentences for the user. `losses_before` and `losses_after` hold the losses `[n]` that the warnings of `outcome.look` rest
    on: of all forget and held-out texts, and of at most 256 retained ones, by "forget", "retain" and "holdout".
    """

    model: Any
    tokenizer: Any
    history: list[dict[str, float]]
    cost: Cost
    config: dict[str, Any]
    solution: Solution | None = None
    details: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    losses_before: Losses = field(default_factory=dict)
    losses_after: Losses = field(default_factory=dict)


@dataclass
class Prepared:
    """A request that has been checked: the method, its inputs, the other half of the holdout, how texts were read, what was noticed,
    and what of each text to forget is used, one for one with the rows (its sequences are in `inputs.forget`)."""

    method: Method
    inputs: Inputs
    holdout_for_report: Sequence[Example]
    reading: dict[str, Any]
    warnings: list[str]
    forget_texts: Sequence[Example]

    @property
    def length(self) -> int:
        """Tokens of a sequence at most."""
        return int(self.reading["max_length"])

    def asked(self, request: Request) -> Prepared:
        """The same texts, with the method and the options of another request for them."""
        chosen = choose(request.method, request.options, request.given)
        return replace(self, method=chosen.settled(self.inputs))

    def looked_at(self) -> dict[str, Sequence[Example]]:
        """The texts whose losses say what became of the model: all to forget, all held out, and at most 256 of those to retain."""
        return {
            "forget": self.inputs.forget,
            "retain": self.inputs.some_retain(LOOKED_AT),
            "holdout": [*self.inputs.holdout, *self.holdout_for_report],
        }


def unlearn(
    model: Any,
    tokenizer: Any,
    *,
    forget: Any,
    retain: Any = None,
    holdout: Any = None,
    base: str | Path | Any = None,
    method: str = "constrained-newton",
    seed: int = 0,
    batch_size: int = 8,
    max_length: int | None = None,
    long_texts: LongTexts = "split",
    assistant_only: bool = True,
    batch_tokens: int | None = None,
    progress: Progress | None = None,
    keep: str | Path | None = None,
    **options: Any,
) -> Result:
    """Remove the influence of `forget` from a copy of `model`.

    Args:
        model: A transformers causal language model, or a peft adapter on one (then only the adapter changes); it is left unchanged.
            One in bfloat16 or float16 is worked on in float32, and every parameter and buffer of the result is in its own format
            again. The result's training modes and `requires_grad` are the given model's. A result that holds the given model
            beside what was added to it (of a form, see `unlearn_lib.models.forms`) has it frozen and in evaluation mode. One that is
            divided among processes (`unlearn_lib.shards`) is changed in place, and few methods take it.
        tokenizer: Its tokenizer.
        forget: D-, a `datasets.Dataset` or a list of dicts with the column `text` (or `prompt` and `completion`, or `messages`); or
            whatever else `rows_of` takes: a list of strings, a DataFrame, the path of a file, ...
        retain: D+, likewise; needed by most methods. Its exact duplicates of forget texts are dropped. With a `retain_limit` a part
            of it is held aside to measure the limit on.
        holdout: Texts of the same kind that were never trained on, needed by `constrained-newton` and by `step="calibrate"`, which stop
            where the forget loss reaches their mean loss. Half of them are kept for the report.
        base: The checkpoint that `retrain` starts from: a model, or anything `load_model` takes. What of it is trained is what
            requires a gradient in `model`.
        method: A name in `unlearn_lib.methods.METHODS`.
        seed: Seeds every draw: data order, dropout, noise, halves of the holdout. The global generators are left as they were.
        batch_size: Sequences that go through the model at a time where the grouping does not change the result.
        max_length: Tokens of a sequence; default: the model's context.
        long_texts: What becomes of texts that are longer: `"split"` makes pieces of them, which are all forgotten, retained or held
            out; `"cut"` uses their first `max_length` tokens alone.
        assistant_only: Of `messages` only what the assistant says is scored; otherwise everything.
        batch_tokens: Positions that go through the model at a time at most, padding included, beside `batch_size`; default: no limit.
        progress: Called with (step, steps, loss) during long work.
        keep: A folder to keep the steps in, so that the same call goes on after an interruption, and ends with the same weights (on a
            CPU bit for bit). It holds weights that still know the forget texts: remove it when the result is saved. The methods
            `sisa` and `certified-newton` keep nothing and start anew.
        **options: The method's options (`preset="paper"`, `step=...`, `damping=...`); see its class.

    Returns:
        See `Result`. Its warnings say, too, where the outcome is bad: see `unlearn_lib.unlearning.outcome.look`.

    Raises:
        InputError: Unknown method or option, an empty set, a missing input, a model of which nothing can be trained.
        NumericsError: A weight, loss or gradient is not finite, or a solver did not reach its tolerance.
    """
    if tokenizer is None:
        raise InputError("texts cannot be encoded without the model's tokenizer; give it as the second argument")
    request = Request(
        forget,
        retain,
        holdout,
        base,
        method,
        seed,
        batch_size,
        max_length,
        long_texts,
        assistant_only,
        batch_tokens,
        options,
    )
    return carry_out(prepare(model, tokenizer, request), model, tokenizer, progress, keep=keep)


def _kept(prepared: Prepared, model: Any, folder: Path) -> Inputs:
    """The inputs with a keeper of the steps; a base that the method starts from is loaded here, and not again."""
    inputs, models = prepared.inputs, [model]
    if inputs.base is not None and "base" in prepared.method.required():
        base = inputs.base()
        inputs, models = replace(inputs, base=lambda: base), [model, base]
    return replace(inputs, keeper=Keeper(folder, identity(prepared.method, inputs, models)))


@without_autocast()
def carry_out(
    prepared: Prepared,
    model: Any,
    tokenizer: Any,
    progress: Progress | None = None,
    *,
    sets: Mapping[str, Sequence[Example]] | None = None,
    losses_before: Losses | None = None,
    in_place: bool = False,
    measure: Measure = losses_of,
    keep: str | Path | None = None,
) -> Result:
    """Run the method of a prepared request: the second half of `unlearn`.

    Args:
        prepared, model, tokenizer, progress, keep: The request, and as of `unlearn`.
        sets: The texts whose losses are compared before and after, by "forget", "retain" and "holdout"; default:
            `Prepared.looked_at`.
        losses_before: Their losses, where they have been measured already.
        in_place: Whether the model itself may be worked on, because nobody needs the original any more; no copy of it is made then,
            and after an error its weights are undefined.
        measure: What gives the losses, as `losses_of` does; for a caller who takes more than losses from the same forward pass.
    """
    if divided(model):
        check_divided(prepared.method)
    if keep is not None:
        prepared = replace(prepared, inputs=_kept(prepared, model, Path(keep)))
    with derivatives(model), own_draws(model, prepared.inputs.seed):
        return _carry_out(prepared, model, tokenizer, progress, sets or prepared.looked_at(), losses_before, in_place, measure)


def _carry_out(
    prepared: Prepared,
    model: Any,
    tokenizer: Any,
    progress: Progress | None,
    sets: Mapping[str, Sequence[Example]],
    before: Losses | None,
    in_place: bool,
    measure: Measure,
) -> Result:
    chosen, inputs = prepared.method, replace(prepared.inputs, progress=progress, passes=Passes())
    if before is None:
        before = measure(model if divided(model) else working_copy(model), sets, inputs.grouping)
    own, flags = formats(model), Flags.of(model)
    with Watch(model.device) as watch:
        outcome = chosen.run(widened(model) if in_place or divided(model) else working_copy(model), inputs)
        give_back(outcome.model, formats_in(outcome.model, own))
    cost = Cost(watch.seconds, outcome.gradient_evaluations, watch.peak_memory_bytes, inputs.passes.forward)
    settings = {
        "method": chosen.name,
        "seed": inputs.seed,
        "batch_size": inputs.batch_size,
        "batch_tokens": inputs.batch_tokens,
    }
    settings |= prepared.reading
    after = measure(outcome.model.eval(), sets, inputs.grouping)
    refuse_divergence(outcome.model, after, chosen.remedy)
    if unused := len(by_text(prepared.holdout_for_report)):
        found = kolmogorov_smirnov(after["forget"], after["holdout"][-unused:])
        outcome.details["kolmogorov_smirnov"] = asdict(found)
    flags.give(outcome.model)
    return Result(
        outcome.model,
        tokenizer,
        outcome.history,
        cost,
        settings | chosen.model_dump(),
        outcome.solution,
        outcome.details,
        prepared.warnings + outcome.warnings + look(before, after, outcome.warnings),
        before,
        after,
    )


def prepare(model: Any, tokenizer: Any, request: Request) -> Prepared:
    """Check a request and encode its texts: all that `unlearn` does before the method runs.

    For a plan `tokenizer` may be None: every text then counts as `max_length` tokens.

    Raises:
        InputError: As `unlearn`.
    """
    check_adapter(model)
    if tokenizer is not None:
        check_tokenizer(model, tokenizer)
    chosen = choose(request.method, request.options, request.given)
    if holds_texts(model) and chosen.form != form_of(model):
        own = next(name for name, method in METHODS.items() if method.form == form_of(model))
        raise InputError(
            f"the folder of this model (form {form_of(model)!r}) holds the texts that it was trained on, and {chosen.name} would leave "
            f"there what it is to forget; use method {own!r}, which takes them out of the folder, too"
        )
    Grouping(request.batch_size, request.batch_tokens)  # refuses what is none
    check_trainable(model)
    length = sequence_length(model, tokenizer, request.max_length)
    reading: dict[str, Any] = {"long_texts": request.long_texts, "assistant_only": request.assistant_only}
    sets = {"forget": _encoded("forget", request.forget, tokenizer, length, reading)}
    for name, rows in (("retain", request.retain), ("holdout", request.holdout)):
        sets[name] = _encoded(name, rows, tokenizer, length, reading) if rows is not None else Encoded()
    # whole texts are compared, before any cut: many begin alike
    forget_texts, retain_texts = sets["forget"].texts, sets["retain"].texts
    kept = without(retain_texts, forget_texts)
    unseen = without(sets["holdout"].texts, [*forget_texts, *kept])
    if request.retain is not None and not kept:
        raise InputError("every retain text is also in the forget set, so nothing is left to retain; check the two files")
    if request.holdout is not None and len(unseen) < 2:
        raise InputError(
            "fewer than two held-out texts are left that are neither in the forget nor in the retain set; give more"
        )
    order = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(request.seed)).tolist()
    half = len(order) // 2
    held_out = [_sequences(sets["holdout"], [unseen[i] for i in part]) for part in (order[:half], order[half:])]
    inputs = Inputs(
        sets["forget"].examples,
        tuple(_sequences(sets["retain"], kept)),
        _base_loader(request.base, model),
        request.seed,
        holdout=held_out[0],
        batch_size=request.batch_size,
        batch_tokens=request.batch_tokens,
        tokenizer=tokenizer,
    )
    warnings = _warnings(sets, kept, unseen, length)
    reading = {"max_length": length, **reading}
    return Prepared(chosen.settled(inputs), inputs, held_out[1], reading, warnings, sets["forget"].used)


def _encoded(name: str, rows: Any, tokenizer: Any, length: int, reading: Mapping[str, Any]) -> Encoded:
    rows = rows_of(rows, name)
    if not rows:
        raise InputError(f"the {name} set is empty; give at least one text")
    if tokenizer is None:
        return of_full_length(rows, length)
    return encode_set(name, rows, tokenizer, length, **reading)


def _sequences(encoded: Encoded, texts: Sequence[Example]) -> list[Example]:
    """The sequences of some texts of a set, in the order of these texts."""
    return encoded.of(text.row for text in texts if text.row is not None)


def _warnings(sets: Mapping[str, Encoded], kept: Sequence[Example], unseen: Sequence[Example], length: int) -> list[str]:
    found, forget = [], sets["forget"].texts
    if dropped := len(sets["retain"].texts) - len(kept):
        found.append(f"{dropped} retain texts are exact duplicates of forget texts and were dropped from the retain set")
    if dropped := len(sets["holdout"].texts) - len(unseen):
        found.append(f"{dropped} held-out texts are also in the forget or retain set and were dropped from the holdout")
    if near := len(near_duplicates(kept, forget)):
        found.append(
            f"{near} retain texts share half or more of their text with a forget text, or of its text, word for word; they stay in the "
            "retain set, and what they say may not be forgotten"
        )
    for name, encoded in sets.items():
        if encoded.cut:
            found.append(f"{encoded.cut} {name} texts are longer than {length} tokens and were cut")
        if encoded.split:
            pieces = len(encoded) - len(encoded.texts) + encoded.split
            found.append(
                f"{encoded.split} {name} texts are longer than {length} tokens and were split into {pieces} pieces, which are all used"
            )
        if encoded.unanswered:
            found.append(f"{encoded.unanswered} {name} conversations have no turn of the assistant and are scored as a whole")
    return found


def _base_loader(base: Any, model: Any) -> Any:
    if base is None:
        return None
    flags = Flags.of(model)

    def load() -> Any:
        own = flags.trained(load_model(base)[0] if isinstance(base, (str, Path)) else copy.deepcopy(base))
        widen(own)
        return own

    return load
