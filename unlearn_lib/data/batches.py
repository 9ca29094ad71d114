"""From texts to batches: tokens, an end-of-text token after every text, labels, padding by attention mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unlearn_lib.data.given import rows_of
from unlearn_lib.data.rows import row_sha256
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED, Batch

UNLIMITED = 1 << 30


@dataclass(frozen=True)
class Example:
    """One encoded sequence: `input_ids` and, of the same length, `labels` with -100 where nothing is scored."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Encoded:
    """The examples of a data set, and how many texts were longer than `max_length` and cut."""

    examples: tuple[Example, ...]
    cut: int

    def __len__(self) -> int:
        return len(self.examples)


def context_length(model: Any, tokenizer: Any | None) -> int:
    """The longest sequence the model takes, in tokens; by its configuration alone where there is no tokenizer.

    Raises:
        InputError: No tokenizer, and a configuration that does not say.
    """
    length: int = getattr(model.config, "max_position_embeddings", UNLIMITED)
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
    most: int = getattr(model.config, "max_position_embeddings", None) or UNLIMITED
    if isinstance(max_length, bool) or not isinstance(max_length, int) or not 2 <= max_length <= most:
        upper = "" if most == UNLIMITED else f" and at most {most}, the positions of this model"
        raise InputError(f"max_length is a number of tokens, at least 2{upper}; got {max_length!r}")
    return max_length


def encode(rows: Sequence[dict[str, Any]] | Any, tokenizer: Any, max_length: int) -> Encoded:
    """Encode the rows of a data set in TRL's formats: `{"text"}`, `{"prompt", "completion"}` of which the completion is
    scored, or `{"messages"}`, through the tokenizer's chat template.

    Args:
        rows: A `datasets.Dataset`, or any sequence of dicts, with those columns; see `rows_of`.
        tokenizer: A transformers tokenizer; its EOS token ends every text.
        max_length: Longer texts are cut to this many tokens (without their EOS then) and counted.

    Raises:
        InputError: A row without those columns, or with nothing that can be scored (also after the cut).
    """
    if tokenizer.eos_token_id is None:
        raise InputError("the tokenizer has no end-of-text token, and every text must end with one; set tokenizer.eos_token")
    examples, cut = [], 0
    for number, row in enumerate(rows_of(rows, blank=True)):
        prompt, text = _columns(row, number, tokenizer)
        given = tokenizer(prompt, verbose=False)["input_ids"] if prompt else []
        scored = [*tokenizer(text, verbose=False, add_special_tokens=not prompt)["input_ids"], tokenizer.eos_token_id]
        ids, labels = (given + scored)[:max_length], ([IGNORED] * len(given) + scored)[:max_length]
        if all(label == IGNORED for label in labels[1:]):
            raise InputError(f"row {number} has nothing to score within {max_length} tokens; remove it or raise max_length")
        cut += len(given) + len(scored) > max_length
        examples.append(Example(tuple(ids), tuple(labels)))
    return Encoded(tuple(examples), cut)


def of_full_length(rows: Sequence[dict[str, Any]] | Any, length: int) -> Encoded:
    """Stand-ins for texts that no tokenizer has read: each is `length` times one number that is made from the text, so that equal
    texts are equal, and only they share tokens. For plans alone, which look at lengths; the numbers are no tokens of a model."""
    numbers = [int(row_sha256(row)[:12], 16) for row in rows]
    return Encoded(tuple(Example((number,) * length, (number,) * length) for number in numbers), 0)


def _columns(row: dict[str, Any], number: int, tokenizer: Any) -> tuple[str, str]:
    if isinstance(row.get("text"), str):
        return "", row["text"]
    if isinstance(row.get("messages"), list):
        if tokenizer.chat_template is None:
            raise InputError(f"row {number} holds 'messages', but the tokenizer has no chat template; give 'text', or set one")
        return "", str(tokenizer.apply_chat_template(row["messages"], tokenize=False)).removesuffix(tokenizer.eos_token)
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, str) and isinstance(completion, str):
        return prompt, completion
    raise InputError(
        f"row {number} needs the column 'text', or 'prompt' and 'completion', as strings, or 'messages'; it has: "
        f"{', '.join(map(str, row))}"
    )


def make_batches(examples: Sequence[Example], batch_size: int, device: torch.device | str = "cpu") -> list[Batch]:
    """Cut the examples, in order, into batches of `batch_size`, each padded on the right to its own longest sequence."""
    return [collate(examples[i : i + batch_size], device) for i in range(0, len(examples), batch_size)]


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
