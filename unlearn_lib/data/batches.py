"""From texts to batches: tokens, labels, long texts in pieces, padding by attention mask."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from unlearn_lib.data.encoder import Encoder
from unlearn_lib.data.examples import Example as Example
from unlearn_lib.data.examples import pieces
from unlearn_lib.data.given import rows_of
from unlearn_lib.data.rows import row_sha256
from unlearn_lib.errors import InputError, unknown
from unlearn_lib.losses import IGNORED, Batch

UNLIMITED = 1 << 30
LongTexts = Literal["split", "cut"]


@dataclass(frozen=True)
class Encoded:
    """A data set as sequences.

    Attributes:
        examples: The sequences to work on, in order; those of one text share its row's number.
        cut, split: How many texts were longer than `max_length` and cut, or split into pieces.
        texts: Every text as a whole, before any cut, one for one with the rows.
        unanswered: How many conversations have no turn of the assistant and are scored as a whole.
    """

    examples: tuple[Example, ...] = ()
    cut: int = 0
    split: int = 0
    texts: tuple[Example, ...] = ()
    unanswered: int = 0

    def __len__(self) -> int:
        return len(self.examples)

    def of(self, rows: Iterable[int]) -> list[Example]:
        """The sequences of these rows, text by text."""
        parts: dict[int | None, list[Example]] = {}
        for example in self.examples:
            parts.setdefault(example.row, []).append(example)
        return [example for row in rows for example in parts[row]]

    @property
    def used(self) -> tuple[Example, ...]:
        """One for one with the rows: what of each text is used; all of it unless it was cut."""
        return self.examples if self.cut else self.texts


def context_length(model: Any, tokenizer: Any | None) -> int:
    """The longest sequence the model takes, in tokens; by its configuration alone where there is no tokenizer.

    Raises:
        InputError: No tokenizer, and a configuration that does not say.
    """
    length = positions(model)
    if tokenizer is not None:
        return int(min(length, tokenizer.model_max_length))
    if length == UNLIMITED:
        raise InputError("the model's configuration states no context length; say how many tokens a text has with max_length")
    return length


def sequence_length(model: Any, tokenizer: Any | None, max_length: int | None = None) -> int:
    """`max_length`, checked against what the model takes; where it is None, `context_length`.

    Raises:
        InputError: No whole number, below 2 (the first token of a text is never scored), or more tokens than the model has positions.
    """
    if max_length is None:
        return context_length(model, tokenizer)
    most = positions(model)
    if isinstance(max_length, bool) or not isinstance(max_length, int) or not 2 <= max_length <= most:
        upper = "" if most == UNLIMITED else f" and at most {most}, the positions of this model"
        raise InputError(f"max_length is a number of tokens, at least 2{upper}; got {max_length!r}")
    return max_length


def positions(model: Any) -> int:
    """How many tokens a model's configuration says it takes; `UNLIMITED` where it does not say."""
    return getattr(model.config, "max_position_embeddings", None) or UNLIMITED


def encode(
    rows: Sequence[dict[str, Any]] | Any,
    tokenizer: Any,
    max_length: int,
    *,
    long_texts: LongTexts = "cut",
    assistant_only: bool = True,
) -> Encoded:
    """Encode the rows of a data set in TRL's formats: `{"text"}`, `{"prompt", "completion"}` of which the completion is
    scored, or `{"messages"}`, through the tokenizer's chat template. How a text becomes tokens: see `Encoder`.

    Args:
        rows: A `datasets.Dataset`, or any sequence of dicts, with those columns; see `rows_of`.
        tokenizer: A transformers tokenizer; its EOS token ends every text, conversations end as their template has it.
        max_length: Of a sequence, in tokens.
        long_texts: What becomes of longer texts: `"cut"` keeps their first `max_length` tokens (then without their EOS), `"split"` makes
            pieces in which every scored token is scored once (see `pieces`).
        assistant_only: Of conversations only what the assistant says is scored; otherwise everything.

    Raises:
        InputError: A row without those columns, one that the tokenizer or its template refuses, or with nothing that can be scored
            (also after the cut).
    """
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end-of-text token, and every text must end with one; set tokenizer.eos_token")
    if long_texts not in get_args(LongTexts):
        raise unknown("value of long_texts", long_texts, get_args(LongTexts))
    encoder = Encoder(tokenizer, assistant_only)
    examples: list[Example] = []
    texts, long = [], 0
    for number, row in enumerate(rows_of(rows, lenient=True)):
        text = encoder.row(row, number)
        if long_texts == "split":
            mine = pieces(text, max_length) if text.scored else []
        else:
            mine = [Example(text.input_ids[:max_length], text.labels[:max_length], number)]
        if not any(example.scored for example in mine):
            raise InputError(f"row {number} has nothing to score within {max_length} tokens; remove it or raise max_length")
        long += len(text.input_ids) > max_length
        texts.append(text)
        examples += mine
    cut, split = (long, 0) if long_texts == "cut" else (0, long)
    return Encoded(tuple(examples), cut, split, tuple(texts), encoder.unanswered)


def encode_set(name: str, rows: Sequence[dict[str, Any]] | Any, tokenizer: Any, max_length: int, **reading: Any) -> Encoded:
    """`encode`, whose errors on a row say of which set it is."""
    try:
        return encode(rows, tokenizer, max_length, **reading)
    except InputError as error:
        raise InputError(f"{name} {error}" if str(error).startswith("row ") else str(error)) from error


def of_full_length(rows: Sequence[dict[str, Any]] | Any, length: int) -> Encoded:
    """Stand-ins for texts that no tokenizer has read: each is `length` times one number that is made from the text, so that equal
    texts are equal, and only they share tokens. For plans alone, which look at lengths; the numbers are no tokens of a model."""
    numbers = [int(row_sha256(row)[:12], 16) for row in rows]
    texts = tuple(Example((number,) * length, (number,) * length, row) for row, number in enumerate(numbers))
    return Encoded(texts, texts=texts)


@dataclass(frozen=True)
class Grouping:
    """How many sequences go through a model at a time: at most `size`, and where `tokens` is given, at most so many positions with
    their padding, so that the memory that long texts take is bounded. A sequence that is longer alone goes alone.

    Raises:
        InputError: A number below 1.
    """

    size: int = 8
    tokens: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("batch_size", self.size), ("batch_tokens", self.tokens)):
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")

    def groups(self, examples: Sequence[Example]) -> Iterator[Sequence[Example]]:
        """The examples, in order, in groups that keep both limits."""
        start = longest = 0
        for place, example in enumerate(examples):
            longest = max(longest, len(example.input_ids))
            number = place - start + 1
            if number > self.size or (self.tokens is not None and number > 1 and number * longest > self.tokens):
                yield examples[start:place]
                start, longest = place, len(example.input_ids)
        if len(examples):
            yield examples[start:]


def make_batches(examples: Sequence[Example], batch_size: int | Grouping, device: torch.device | str = "cpu") -> list[Batch]:
    """Cut the examples, in order, into batches of `batch_size`, each padded on the right to its own longest sequence."""
    grouping = batch_size if isinstance(batch_size, Grouping) else Grouping(batch_size)
    return [collate(group, device) for group in grouping.groups(examples)]


def collate(examples: Sequence[Example], device: torch.device | str = "cpu") -> Batch:
    """One batch: `input_ids`, `attention_mask`, `labels`, all `[B, T]` int64.

    Padding uses token 0 and mask 0: it is told apart by the mask, never by its id.
    """
    T = max(len(example.input_ids) for example in examples)
    ids = torch.zeros(len(examples), T, dtype=torch.long)
    mask = torch.zeros(len(examples), T, dtype=torch.long)
    labels = torch.full((len(examples), T), IGNORED, dtype=torch.long)
    for row, example in enumerate(examples):
        n = len(example.input_ids)
        ids[row, :n] = torch.tensor(example.input_ids)
        mask[row, :n] = 1
        labels[row, :n] = torch.tensor(example.labels)
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}
