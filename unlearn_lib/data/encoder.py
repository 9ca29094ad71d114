"""From one text to tokens and labels. Training, losses and accuracy all read texts here, so that they mean the same tokens.

A text is tokenised as a whole, as it would be met in use, and what is scored is found in it by character offsets. A prompt and its
completion tokenised apart would give other tokens than the whole has: sentencepiece models put a space mark before every text,
and a token may hold the prompt's last and the completion's first characters. Such a token is scored: nothing of a completion is
left out, at the price of some characters of the prompt. (Masks of as many tokens as the prompt alone has, as in TRL or the
evaluation harness, go wrong where the prompt's end is tokenised otherwise before its completion.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from unlearn_lib.data.chat import Span, agreeing, conversation
from unlearn_lib.data.examples import Example
from unlearn_lib.data.rows import halves
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED


@dataclass(frozen=True)
class _Tokens:
    ids: list[int]
    spans: list[Span] | None  # characters of each token; None: the tokenizer cannot say
    lead: int


class Encoder:
    """Reads texts with one tokenizer.

    Special tokens that the tokenizer puts before a text (BOS) stand, once: not again where the text begins with its own. Those that
    it puts after a text are left to us: one EOS ends a text, unless it ends with its own. Conversations have the special tokens that
    their chat template writes, at both ends, and no others. `unanswered` counts those that have no turn of the assistant, which are
    scored as a whole.
    """

    def __init__(self, tokenizer: Any, assistant_only: bool = True) -> None:
        self.tokenizer = tokenizer
        self.assistant_only = assistant_only
        self.unanswered = 0
        self.fast = bool(getattr(tokenizer, "is_fast", False))

    def row(self, row: Mapping[str, Any], number: int) -> Example:
        """A row as `checked_row` gives it: one text, with a prompt or without, or a conversation.

        Raises:
            InputError: A conversation that the chat template refuses, or of which it cannot be told what
                the assistant says; a text that the tokenizer refuses.
        """
        where = f"row {number}"
        text = halves(row)
        found = self.conversation(row["messages"], where) if text is None else self.answer(*text, where)
        return replace(found, row=number)

    def answer(self, prompt: str, completion: str, where: str = "a text", end: bool = True) -> Example:
        """Prompt and completion as one text, of which the completion is scored, with its EOS (`end`) or without; all of it where the
        prompt is empty."""
        tokens = self._tokens(prompt + completion, where)
        ids, first = list(tokens.ids), self._first_beyond(prompt, tokens, where)
        if end and ids[-1:] != [self.tokenizer.eos_token_id]:
            ids.append(self.tokenizer.eos_token_id)
        return Example(tuple(ids), (*[IGNORED] * first, *ids[first:]), lead=tokens.lead)

    def conversation(self, messages: list[Any], where: str) -> Example:
        """A conversation as its chat template writes it, token for token; scored is what the assistant says, each turn with the
        mark that ends it, or everything."""
        text, spans = conversation(self.tokenizer, messages, self.assistant_only, where)
        tokens = self._tokens(text, where, special=False)
        lead = int(tokens.ids[:1] == [self.tokenizer.bos_token_id])
        if not spans:
            self.unanswered += spans is not None
            return Example(tuple(tokens.ids), tuple(tokens.ids), lead=lead)
        if tokens.spans is None:
            raise InputError(
                f"{where}: what the assistant says can only be found by a fast tokenizer, which says where its tokens stand in the "
                "text; use one, or score whole conversations with assistant_only=False (--whole-conversation)"
            )
        labels, before = [IGNORED] * len(tokens.ids), 0
        for i, (start, end) in enumerate(tokens.spans):
            # byte-level tokenizers leave blanks out of the spans, of a blank token all: it begins where the one before ends
            begins = start if end > start else min(before, start)
            if any(end > said_start and begins < said_end for said_start, said_end in spans):
                labels[i] = tokens.ids[i]
            before = max(before, end)
        return Example(tuple(tokens.ids), tuple(labels), lead=lead)

    def _first_beyond(self, prompt: str, tokens: _Tokens, where: str) -> int:
        """The first token that holds a character after the prompt; 0 without a prompt."""
        if not prompt:
            return 0
        if tokens.spans is not None:
            beyond = (i for i in range(tokens.lead, len(tokens.ids)) if tokens.spans[i][1] > len(prompt))
            return next(beyond, len(tokens.ids))
        # what the whole has in common with the prompt alone is of the prompt; a token that differs may hold more than that
        alone = self._tokens(prompt, where).ids
        return agreeing(tokens.ids, alone)

    def _tokens(self, text: str, where: str, special: bool = True) -> _Tokens:
        options: dict[str, Any] = {"return_offsets_mapping": True} if self.fast else {}
        try:
            found = self.tokenizer(text, add_special_tokens=special, return_special_tokens_mask=True, verbose=False, **options)
        except (TypeError, UnicodeError) as error:  # lone surrogates, which no tokenizer takes
            raise InputError(f"{where}: the tokenizer cannot read this text ({error}); it must be valid Unicode") from error
        ids, added, spans = list(found["input_ids"]), list(found["special_tokens_mask"]), found.get("offset_mapping")
        if special:
            lead = next((i for i, mark in enumerate(added) if not mark), len(added))
            end = max([lead, *(i + 1 for i, mark in enumerate(added) if not mark)])
            skip = int(0 < lead < end and ids[lead - 1] == ids[lead] == self.tokenizer.bos_token_id)  # the text's own BOS
            ids = ids[: lead - skip] + ids[lead:end]
            spans = spans and list(spans)[: lead - skip] + list(spans)[lead:end]
        else:
            lead = 0
        return _Tokens(ids, [(start, end) for start, end in spans] if spans is not None else None, lead)
