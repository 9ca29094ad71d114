"""The texts of an audit, read once for all models, which share a tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from unlearn_lib.data.batches import Example, LongTexts, encode_set
from unlearn_lib.data.examples import by_text
from unlearn_lib.data.overlap import without
from unlearn_lib.data.rows import Row
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED
from unlearn_lib.metrics.slices import nearness

SETS = ("forget", "retain", "holdout")
MOST, DIGITS = 20, 12
"""The forget texts that a report names at most, and how many digits of their SHA-256 it gives."""


def best_known(strength_n: Tensor, loss_n: Tensor) -> list[int]:
    """The numbers of the texts that a report names: those best known first, by extraction strength, then by loss."""
    return sorted(range(len(loss_n)), key=lambda i: (-float(strength_n[i]), float(loss_n[i])))[:MOST]


@dataclass(frozen=True)
class Texts:
    """Sets of texts as sequences, without those that are in an earlier set, too.

    Attributes:
        examples: The sequences, by set; a set that was not given is not there.
        scored: What is scored of every text, as a string, in the order of `by_text`.
        forget_rows: The rows to forget, one for one with the forget texts.
        warnings: What was noticed.
    """

    examples: Mapping[str, Sequence[Example]]
    scored: Mapping[str, Sequence[str]]
    forget_rows: Sequence[Row]
    warnings: Sequence[str]

    @property
    def whole(self) -> bool:
        """Whether every text is one sequence."""
        return all(len(by_text(examples)) == len(examples) for examples in self.examples.values())

    @cached_property
    def nearness_n(self) -> Tensor:
        """How near every retained text is to the forgotten ones, see `nearness`; computed once for all models."""
        return nearness(self.wholes("retain"), self.wholes("forget"))

    def wholes(self, name: str) -> list[Example]:
        """The texts of a set as one sequence each; where the pieces of a text overlap, a token stands in it twice."""
        own = self.examples[name]
        return [
            Example(
                tuple(token for position in group for token in own[position].input_ids),
                tuple(label for position in group for label in own[position].labels),
            )
            for group in by_text(own)
        ]

    def number(self, name: str) -> int:
        """How many texts of a set there are."""
        return len(by_text(self.examples[name])) if name in self.examples else 0


def read(rows: Mapping[str, Sequence[Row]], tokenizer: Any, length: int, long_texts: LongTexts, assistant_only: bool) -> Texts:
    """Encode the sets, and drop from each what an earlier one has.

    Raises:
        InputError: As `encode`; a set of which nothing is left.
    """
    examples: dict[str, Sequence[Example]] = {}
    warnings: list[str] = []
    before: list[Example] = []
    for name in SETS:
        if name not in rows:
            continue
        encoded = encode_set(name, rows[name], tokenizer, length, long_texts=long_texts, assistant_only=assistant_only)
        kept = without(encoded.texts, before)
        if not kept:
            raise InputError(f"every {name} text is in an earlier set, too, so nothing is left of it; check the files")
        if dropped := len(encoded.texts) - len(kept):
            warnings.append(f"{dropped} {name} texts are in an earlier set, too, and were dropped from this one")
        if encoded.cut:
            warnings.append(f"{encoded.cut} {name} texts are longer than {length} tokens and were cut")
        examples[name] = encoded.of(text.row for text in kept if text.row is not None)
        before += encoded.texts
    return of_sequences(examples, tokenizer, rows["forget"], warnings)


def of_sequences(
    examples: Mapping[str, Sequence[Example]], tokenizer: Any, forget_rows: Sequence[Row], warnings: Sequence[str] = ()
) -> Texts:
    """The texts of sets that were encoded elsewhere; sets without a sequence are left out.

    Args:
        examples: The sequences, by set; no text is in two sets.
        tokenizer: What encoded them.
        forget_rows, warnings: As of `Texts`.
    """
    given = {name: own for name, own in examples.items() if len(own)}
    scored = {name: [_scored(own, group, tokenizer) for group in by_text(own)] for name, own in given.items()}
    return Texts(given, scored, list(forget_rows), list(warnings))


def _scored(examples: Sequence[Example], group: Sequence[int], tokenizer: Any) -> str:
    ids = [label for position in group for label in examples[position].labels[1:] if label != IGNORED]
    return str(tokenizer.decode(ids, skip_special_tokens=True))
