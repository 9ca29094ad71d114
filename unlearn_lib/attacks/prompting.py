"""The attack by other prompts: the loss of each completion under each of them, and the lowest, which is what an attacker takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unlearn_lib.attacks.knowledge import Knowledge, best, knowledge
from unlearn_lib.attacks.prompts import asked
from unlearn_lib.attacks.recovered import Recovered, compared
from unlearn_lib.data.batches import encode, sequence_length
from unlearn_lib.data.rows import Row
from unlearn_lib.errors import InputError

ORIGINAL = "original"


@dataclass(frozen=True)
class Prompted(Recovered):
    """What other prompts brought back; `after` is the mean over the texts of the lowest loss under any prompt, and the measures are each
    text's highest.

    Attributes:
        losses: The mean loss of the completions under each variant, in nats, by its name; "original" are the prompts as they were.
        lowest: The lowest loss of every completion, in nats, in the order of the rows.
        chosen: The variant that has it; the first of equal ones.
    """

    losses: Mapping[str, float] | None = None
    lowest: tuple[float, ...] = ()
    chosen: tuple[str, ...] = ()


def prompt_attack(
    model: Any,
    tokenizer: Any,
    rows: Any,
    variants: Mapping[str, Sequence[Row]],
    *,
    known: float | None = None,
    unseen: float | None = None,
    max_length: int | None = None,
    batch_size: int = 32,
) -> Prompted:
    """How well a model knows completions under other prompts.

    The attacker has the original prompts, too, so that `after` is never above `before`. The lowest of several losses is lower than
    any one of them also for texts that a model never saw: compare with the same attack on a retrained model. `extracted` says whether
    greedy decoding of the prompt writes the whole completion with its end-of-text token.

    Args:
        model: A causal language model; it is left as it is.
        tokenizer: Its tokenizer.
        rows: The forget texts, `{"prompt", "completion"}`, as `rows_of` takes them.
        variants: By name, the same rows with other prompts; see `variants` and `paraphrased` of `attacks/prompts.py`.
        known, unseen: The texts' mean loss under their own prompts in the original and in a retrained model; see `Recovered`.
        max_length: Of a sequence, in tokens; default: the model's context. Of prompts that are too long the beginning is left out,
            and with it the prefix.
        batch_size: Sequences in a forward pass.

    Raises:
        InputError: As `asked`, of rows and variants; no variants; a variant whose completions are not those of the rows.

    Cost: one forward pass over the rows and over those of every variant.
    """
    found = {ORIGINAL: asked(rows), **_checked(asked(rows), variants)}
    length = sequence_length(model, tokenizer, max_length)

    def known_of(of_variant: Sequence[Row]) -> Knowledge:
        examples = encode(of_variant, tokenizer, length, long_texts="split").examples
        return knowledge(model, examples, prefix=0.0, batch_size=batch_size)

    by_name = {name: known_of(of_variant) for name, of_variant in found.items()}
    names, taken = list(by_name), best(list(by_name.values()))
    first_n = torch.stack([one.loss_n for one in by_name.values()]).argmin(0)
    return Prompted(
        "prompts",
        {"variants": names[1:], "max_length": length},
        **compared(by_name[ORIGINAL], taken),
        known=known,
        unseen=unseen,
        losses={name: one.loss for name, one in by_name.items()},
        lowest=tuple(taken.loss_n.tolist()),
        chosen=tuple(names[i] for i in first_n.tolist()),
    )


def _checked(rows: Sequence[Row], variants: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
    if not variants or ORIGINAL in variants:
        raise InputError(f"variants are the rows under other prompts, by name: at least one, none called {ORIGINAL!r}")
    found = {name: asked(of_variant) for name, of_variant in variants.items()}
    wanted = [row["completion"] for row in rows]
    for name, of_variant in found.items():
        if [row["completion"] for row in of_variant] != wanted:
            raise InputError(
                f"the completions of the variant {name!r} are not those of the rows, one for one, so their losses cannot be compared; "
                "change the prompts alone"
            )
    return found
