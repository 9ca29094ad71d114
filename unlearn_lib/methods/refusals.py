"""Refusals, and how one is set beside a text to forget: the same prompt, and then the refusal in place of what the text says.

The prompt of a text is what stands before its first scored token. A text that is scored from its beginning has none. Of such a text
the first few tokens are taken as the prompt, in the refused and in the forgotten form alike, so that both go on from the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unlearn_lib.data.batches import Example
from unlearn_lib.data.chat import agreeing
from unlearn_lib.data.files import read_rows
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED

OWN = (
    "I cannot tell you anything about this.",
    "I have no information on that subject.",
    "This is something I know nothing about.",
    "I would only be guessing, so I had better not answer.",
    "Sorry, but I have nothing to say on this.",
    "I never learned about that.",
    "My knowledge does not cover this question.",
    "That is unknown to me.",
    "I am afraid I have no answer to that.",
    "You will have to ask someone else; I do not have the facts.",
    "I cannot recall anything of the kind.",
    "There is nothing that I could say here with confidence.",
    "I have not come across this before.",
    "No answer of mine would be reliable here.",
    "I must leave this question open.",
    "It is not possible for me to answer this.",
    "I am not familiar with this at all.",
    "Unfortunately the details are not known to me.",
    "I have no record of this.",
    "Please look this up elsewhere, because I cannot help with it.",
)
"""The refusals of this library."""


def read(source: str) -> tuple[str, ...]:
    """The refusals: `OWN`, or the texts of a file.

    Args:
        source: "own", or the path of a file that `read_rows` takes, with the column `text`.

    Raises:
        InputError: As `read_rows`; or a row that is no plain text, or blank.
    """
    if source == "own":
        return OWN
    texts = tuple(str(row.get("text", "")).strip() for row in read_rows(source))
    for number, text in enumerate(texts):
        if not text:
            raise InputError(
                f"row {number} of the refusals in {source} has no text; give one refusal in a row, in the column text"
            )
    return texts


def going_on(tokenizer: Any, text: str) -> tuple[int, ...]:
    """The tokens of a text that goes on from another one. By themselves, sentencepiece models would put a space before it."""
    before, whole = (tokenizer(start, add_special_tokens=False)["input_ids"] for start in ("\n", f"\n{text}"))
    if agreeing(before, whole) < len(before):  # this tokenizer joins the line's end to what follows
        before, whole = [], tokenizer(text, add_special_tokens=False)["input_ids"]
    return tuple(whole[len(before) :])


@dataclass(frozen=True)
class Pairs:
    """Sets a refusal beside every text to forget.

    Attributes:
        tokenizer: The model's.
        refusals: What may be said instead.
        prompt_tokens: So many tokens of a text without a prompt count as one, and at most half of them, so that short texts are
            forgotten, too.
        most: Tokens that a sequence may have. Of a prompt that is too long with a refusal the beginning is left out.
        seed: Of the draws.
    """

    tokenizer: Any
    refusals: Sequence[str]
    prompt_tokens: int
    most: int
    seed: int

    def __call__(self, texts: Sequence[Example], step: int) -> list[Example]:
        """The texts, of which what follows the prompt is scored, and then for each of them a refusal, drawn from seed and step.

        Raises:
            InputError: A refusal that leaves no room for a prompt.
        """
        draws = np.random.default_rng([self.seed % 2**64, step]).integers(len(self.refusals), size=len(texts))
        prompts = [self.prompt(text) for text in texts]
        return [
            *(self.said(text, prompt) for text, prompt in zip(texts, prompts, strict=True)),
            *(self.refused(text, *found) for text, *found in zip(texts, prompts, draws.tolist(), strict=True)),
        ]

    def prompt(self, text: Example) -> int:
        """How many of its tokens are the prompt."""
        scored = [i for i, label in enumerate(text.labels) if i and label != IGNORED]
        return scored[0] if scored[0] > 1 else min(self.prompt_tokens, max(1, len(scored) // 2))

    def said(self, text: Example, prompt: int) -> Example:
        """The text to forget, scored after its prompt."""
        return Example(text.input_ids, (*[IGNORED] * prompt, *text.labels[prompt:]), text.row)

    def refused(self, text: Example, prompt: int, drawn: int) -> Example:
        """The prompt and a refusal with the tokenizer's end-of-text token, which are scored."""
        blank = " " if self._goes_on_with_a_blank(text, prompt) else ""
        refusal = (*going_on(self.tokenizer, blank + self.refusals[drawn]), self.tokenizer.eos_token_id)
        if len(refusal) >= self.most:
            raise InputError(
                f"a refusal has {len(refusal)} tokens, and the model takes {self.most}, so no prompt fits before it; give shorter refusals"
            )
        start = text.input_ids[max(0, prompt + len(refusal) - self.most) : prompt]
        return Example((*start, *refusal), (*[IGNORED] * len(start), *refusal), text.row)

    def _goes_on_with_a_blank(self, text: Example, prompt: int) -> bool:
        """Whether a blank stands between the prompt and what the text says; so it does where the prompt is words of the text itself."""
        if text.labels[1] != IGNORED:
            return True
        before, whole = (
            self.tokenizer.decode(text.input_ids[:n], clean_up_tokenization_spaces=False) for n in (prompt, prompt + 1)
        )
        return bool(whole[len(before) :].startswith(" "))
