"""Documents as a model reads them, for document-level membership inference: the probabilities of their tokens, in windows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unlearn_lib.data.batches import Example, context_length, encode, make_batches, sequence_length
from unlearn_lib.data.examples import by_text
from unlearn_lib.data.given import rows_of
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.losses import IGNORED, token_logits, token_nll
from unlearn_lib.metrics.divergence import of_logits
from unlearn_lib.metrics.document_features import Document, Floats

CONTEXT = 128
"""Tokens of a window, as in the source."""


def read_documents(model: Any, tokenizer: Any, rows: Any, *, context: int = CONTEXT, batch_size: int = 32) -> list[Document]:
    """What a model says of every token of the documents but their first.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        rows: A data set as `rows_of` takes it, a document a row. Its end-of-text token counts as a token.
        context: Tokens of a window, at most the model's own context. Windows overlap by a quarter or more, so that every token is
            predicted once and from at least that many tokens before it, where the document has them. (The source's windows
            do not overlap, and the first token of each is lost.)
        batch_size: Windows in a forward pass.

    Returns:
        A `Document` for every row, in order.

    Raises:
        InputError: No documents; one with a single token; a context below 2.
        NumericsError: A probability is not a number.

    Cost: a forward pass over up to 4/3 of the tokens.
    """
    examples = windows(model, tokenizer, rows, context)
    read: list[list[Tensor]] = []
    for logits_BTV, labels_BT in _passes(model, examples, batch_size):
        nll_BS, scored_BS = token_nll(logits_BTV, labels_BT)
        log_max_BS = of_logits(logits_BTV).amax(-1)
        if bool(nll_BS.isnan().any()):
            raise NumericsError("a token's probability is not a number; look for a model that has diverged")
        columns = (labels_BT[:, 1:], -nll_BS.double(), log_max_BS.double())
        read += [[column[row][scored_S].cpu() for column in columns] for row, scored_S in enumerate(scored_BS)]
    parts = [
        [torch.cat(column).numpy() for column in zip(*(read[i] for i in group), strict=True)] for group in by_text(examples)
    ]
    return [Document(*columns) for columns in parts]


def predicted_probabilities(model: Any, tokenizer: Any, rows: Any, *, context: int = CONTEXT, batch_size: int = 32) -> Floats:
    """`[V]`: GP, for every token of the vocabulary the mean over reference texts of the mean probability that the model gives it at
    the positions of a text.

    Args, Raises, Cost: As of `read_documents`.
    """
    examples = windows(model, tokenizer, rows, context)
    groups = by_text(examples)
    weights = np.zeros(len(examples))  # of a position, by its window
    for group in groups:
        weights[group] = 1 / (len(groups) * sum(examples[i].scored for i in group))
    total_V, done = torch.zeros(()), 0
    for logits_BTV, labels_BT in _passes(model, examples, batch_size):
        weight_B1 = torch.from_numpy(weights[done : done + len(labels_BT)]).unsqueeze(1).to(labels_BT.device)
        weight_BS = weight_B1 * (labels_BT[:, 1:] != IGNORED)
        total_V = total_V + torch.einsum("bs,bsv->v", weight_BS, of_logits(logits_BTV).exp().double()).cpu()
        done += len(labels_BT)
    found: Floats = total_V.numpy()
    return found


def windows(model: Any, tokenizer: Any, rows: Any, context: int = CONTEXT) -> tuple[Example, ...]:
    """The documents as windows of at most `context` tokens, in which every token but a document's first is scored once; those of one
    document share its row's number.

    Raises:
        InputError: No documents; one with nothing to score; a context below 2.
    """
    given = rows_of(rows)
    if not given:
        raise InputError("there are no documents to read; give at least one")
    length = sequence_length(model, tokenizer, min(context, context_length(model, tokenizer)))
    return encode(given, tokenizer, length, long_texts="split").examples


@torch.no_grad()
def _passes(model: Any, examples: Sequence[Example], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(logits, labels) of batches, both of the texts' own T tokens: virtual tokens before a text do not predict its first."""
    for batch in make_batches(examples, batch_size, model.device):
        yield token_logits(model, batch)[:, -batch["labels"].shape[1] :], batch["labels"]
