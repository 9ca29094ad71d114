"""Whether a run fits on some cards, and the setting that would: what `unlearn run --plan --cards 4x80` says.

Every card has the whole model, or with `--shard-weights` its part of it, with what a method keeps beside it, and its share of what belongs
to single texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

from unlearn_lib.curvature.solvers.woodbury import PASSES
from unlearn_lib.errors import InputError
from unlearn_lib.methods.divided import can_be_divided, check_divided
from unlearn_lib.methods.plan import MethodPlan, model_bytes
from unlearn_lib.ranks import planned_for
from unlearn_lib.shards import gathered_bytes
from unlearn_lib.unlearning.unlearn import Prepared

SPARE = 1.1
"""A plan counts tensors; so much more is taken for what it does not see."""


@dataclass(frozen=True)
class Cards:
    """So many cards, or processes, with so many GiB each."""

    number: int
    gib: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """From text such as "4x80".

        Raises:
            InputError: It is none of that form.
        """
        number, _, gib = text.lower().partition("x")
        try:
            found = cls(int(number), float(gib))
        except ValueError:
            found = cls(0, 0.0)
        if found.number < 1 or not 0 < found.gib < float("inf"):
            raise InputError(
                f"--cards {text!r} is not of the form NUMBERxGIB, such as 4x80: so many cards with so many GiB each"
            )
        return found

    def __str__(self) -> str:
        return f"{self.number} card{'s' if self.number > 1 else ''} of {self.gib:g} GiB"


def fitting(model: Any, prepared: Prepared, cards: Cards, *, shard_weights: bool = False) -> str:
    """A sentence that says what each card takes, where that is no more than it has; with the weights divided among them or not.

    Raises:
        InputError: It is more; with the first setting that takes less than the cards have, if there is one.

    Cost: a plan for every setting that is tried.
    """
    least, told = float("inf"), ""
    if shard_weights:
        check_divided(prepared.method)
    ways = [True] if shard_weights else [False, *([True] if cards.number > 1 and _divides(model, prepared) else [])]
    for sharded in ways:
        for words, tried in settings(prepared):
            with planned_for(cards.number, sharded=sharded):
                plan, own = tried.method.plan(model, tried.inputs), model_bytes(model)
            # a plan counts the copy that a method works on, and a divided model is not copied
            needed = SPARE * (plan.peak_memory_bytes + (0 if sharded else own)) / 2**30
            setting = " ".join(["--shard-weights"] * (sharded and not shard_weights) + [words] * bool(words))
            if not told:
                wanted, told, first = needed, _told(needed, plan, cards), own
            if needed <= cards.gib:
                if not setting:
                    return f"fits on {cards}: {told}"
                raise InputError(
                    f"it does not fit on {cards}: {told}; what fits: {setting}, with about {needed:,.1f} GiB a card"
                )
            least = min(least, needed)
    how = "with smaller batches, more passes and --shard-weights" if len(ways) > 1 else "with smaller batches and more passes"
    less = f"; {how} about {least:,.1f} GiB" if least < wanted else ""
    where = f"a part of {cards.number} on each card" if shard_weights else "whole on every card"
    raise InputError(
        f"it does not fit on {cards}: {told}{less}, of which {first / 2**30:,.1f} GiB are the model, {where}; take larger cards, "
        "another method, a shorter --max-length, or an adapter in place of the whole model"
    )


def _divides(model: Any, prepared: Prepared) -> bool:
    try:
        gathered_bytes(model)
    except InputError:
        return False
    return can_be_divided(prepared.method)


def _told(needed: float, plan: MethodPlan, cards: Cards) -> str:
    each = plan.gradient_evaluations / cards.number
    return f"about {needed:,.1f} GiB a card, a tenth to spare, and {each:,.0f} gradients of single texts each"


def settings(prepared: Prepared) -> Iterator[tuple[str, Prepared]]:
    """The settings to try, from the one that was asked for to those that take less memory and more work: what to add to the command, and
    what is then planned."""
    size, has_passes = prepared.inputs.batch_size, "passes" in type(prepared.method).model_fields
    own: int = getattr(prepared.method, "passes", 1)
    sizes = [size >> power for power in range(size.bit_length())]
    tried = [(number, own) for number in sizes]
    # passes alone are no help where a single batch takes most
    tried += [(sizes[-1], passes) for passes in PASSES if passes > own and has_passes]
    for number, passes in tried:
        words = [f"--batch-size {number}"] if number != size else []
        words += [f"--set passes={passes}"] if passes != own else []
        method = prepared.method.model_copy(update={"passes": passes}) if has_passes else prepared.method
        yield " ".join(words), replace(prepared, method=method, inputs=replace(prepared.inputs, batch_size=number))
