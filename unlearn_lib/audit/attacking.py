"""The attacks of an audit: what comes back of the forget texts by training, rounding, pruning, other prompts, and inside the model.

The share of the way back is that of `unlearn_lib.attacks.recovered`: from the loss of the audited model to that of the original.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unlearn_lib.attacks.logit_lens import logit_lens
from unlearn_lib.attacks.prompting import prompt_attack
from unlearn_lib.attacks.prompts import variants
from unlearn_lib.attacks.pruning import pruning
from unlearn_lib.attacks.quantisation import quantisation
from unlearn_lib.attacks.recovered import Recovered
from unlearn_lib.attacks.relearning import few, relearning
from unlearn_lib.audit.guard import Guard
from unlearn_lib.audit.schema import Curve, Measure
from unlearn_lib.audit.settings import Settings
from unlearn_lib.audit.texts import Texts
from unlearn_lib.audit.verdict import WAY_BACK
from unlearn_lib.errors import InputError
from unlearn_lib.unlearning.outcome import TRIFLE

BITS, SPARSITY = (8, 4), 0.3


def attack_weights(
    guard: Guard, role: str, model: Any, tokenizer: Any, texts: Texts, settings: Settings, known: float | None
) -> None:
    """All attacks but relearning, on a model of this role; `known` is the forget loss of the original."""
    forget, size = texts.examples["forget"], settings.batch_size

    def rounded(name: str, bits: int) -> Iterator[Measure]:
        yield from recovered(role, name, quantisation(model, forget, bits, known=known, batch_size=size), texts)

    def cut(name: str) -> Iterator[Measure]:
        yield from recovered(role, name, pruning(model, forget, SPARSITY, known=known, batch_size=size), texts)

    def prompted(name: str) -> Iterator[Measure]:
        rows = texts.forget_rows
        if not all("prompt" in row for row in rows):
            raise InputError("the forget texts have no prompts that could be put otherwise")
        length = settings.max_length
        found = prompt_attack(model, tokenizer, rows, variants(rows), known=known, max_length=length, batch_size=size)
        yield from recovered(role, name, found, texts)

    def read_inside(name: str) -> Iterator[Measure]:
        yield from recovered(role, name, logit_lens(model, forget, known=known, batch_size=size), texts)

    for bits in BITS:
        name = f"rounding to {bits} bits"
        guard.take(f"{role}: {name}", rounded, name, bits)
    for name, function in (
        (f"pruning of {100 * SPARSITY:.0f} % of the weights", cut),
        ("other prompts", prompted),
        ("the logit lens", read_inside),
    ):
        guard.take(f"{role}: {name}", function, name)


def relearn(guard: Guard, role: str, model: Any, texts: Texts, settings: Settings, known: float | None) -> list[Curve]:
    """Train on half of the forget texts and look at the other half; the curve, unless it failed."""
    curves: list[Curve] = []

    def attack() -> Iterator[Measure]:
        number = texts.number("forget")
        if number < 2:
            raise InputError("relearning trains on some forget texts and looks at others, and there is only one")
        on, others = few(texts.examples["forget"], number // 2, settings.seed)
        found = relearning(
            model,
            on,
            others,
            steps=settings.relearning_steps,
            learning_rate=settings.relearning_rate,
            seed=settings.seed,
            known=known,
            batch_size=settings.batch_size,
        )
        curves.append(Curve(role=role, points=list(found.curve)))
        yield from recovered(role, "relearning", found, texts, n=number - number // 2)

    guard.take(f"{role}: relearning", attack)
    return curves


def recovered(role: str, name: str, found: Recovered, texts: Texts, n: int | None = None) -> Iterator[Measure]:
    """What an attack reached, and the share of the way back where there is an original."""
    number = texts.number("forget") if n is None else n
    yield Measure(
        family="attack", name=f"forget loss after {name}", role=role, texts="forget", value=found.after, n=number, unit="nats"
    )
    # where next to nothing was forgotten there is no way back, and a share of it would be noise
    if found.share is not None and found.known is not None and found.before - found.known > TRIFLE * found.known:
        yield Measure(family="attack", name=name, role=role, texts="forget", value=found.share, n=number, unit=WAY_BACK)
