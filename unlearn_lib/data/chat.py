"""A conversation as its chat template writes it, and where in that text the assistant speaks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from unlearn_lib.errors import InputError

Span = tuple[int, int]
"""First character, and the one after the last."""

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
MARK = "qzjx{}xjzq"
TRIMS = (str, str.strip, str.lstrip, str.rstrip)
WHOLE = "score whole conversations with assistant_only=False (--whole-conversation)"


def conversation(tokenizer: Any, messages: list[Any], assistant_only: bool, where: str) -> tuple[str, list[Span] | None]:
    """The text, and the spans of what the assistant says; None if everything is to be scored, none where the assistant has no turn.

    A template with `{% generation %}` blocks says itself where the assistant speaks. Of any other it is found out what it makes of an
    assistant's content, and what it writes behind it in every case, whoever speaks next: the mark that ends the turn, which is
    scored, too, up to its last character that is no blank.

    Raises:
        InputError: No chat template, one that refuses the conversation, or one that does not keep what the assistant says.
    """
    if tokenizer.chat_template is None:
        raise InputError(f"{where} holds 'messages', but the tokenizer has no chat template; give 'text', or set one")
    messages = [{key: value for key, value in message.items() if value is not None} for message in messages]
    text = _render(tokenizer, messages, where)
    if not assistant_only:
        return text, None
    speaks = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
    if not speaks:
        return text, []
    if GENERATION.search(tokenizer.get_chat_template()):
        return text, _generated(tokenizer, messages, where)
    return text, _located(tokenizer, messages, speaks, text, where)


def _render(tokenizer: Any, messages: list[dict[str, Any]], where: str) -> str:
    from jinja2 import TemplateError

    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False))
    except (TemplateError, TypeError, ValueError) as error:
        raise InputError(f"{where}: the chat template refuses the messages ({error}); change them or give 'text'") from error


def _generated(tokenizer: Any, messages: list[dict[str, Any]], where: str) -> list[Span]:
    from transformers.utils.chat_template_utils import render_jinja_template

    # the characters, not the tokens that transformers makes of them: its mask is lost at a blank that no token's span holds
    _, spans = render_jinja_template(
        conversations=[messages],
        chat_template=tokenizer.get_chat_template(),
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    if not spans[0]:
        raise InputError(f"{where}: the chat template's generation blocks are empty for this conversation; {WHOLE}")
    return [(start, end) for start, end in spans[0]]


def _located(tokenizer: Any, messages: list[dict[str, Any]], speaks: list[int], text: str, where: str) -> list[Span]:
    refusal = InputError(
        f"{where}: what the assistant says cannot be told from the rest of what this chat template writes; {WHOLE}, or give the "
        "template generation blocks"
    )
    for i in speaks:
        # calls of tools and thoughts of their own stand outside of the content, in the template's own words
        if not isinstance(messages[i].get("content"), str) or set(messages[i]) - {"role", "content", "name"}:
            raise refusal
    marked = [{**message, "content": MARK.format(i)} if i in speaks else message for i, message in enumerate(messages)]
    pattern = "|".join(MARK.format(i) for i in speaks)
    frame = _render(tokenizer, marked, where)
    if re.findall(pattern, frame) != [MARK.format(i) for i in speaks] or re.search(pattern, text):
        raise refusal
    fixed = re.split(pattern, frame)
    for trim in TRIMS:
        contents = [trim(messages[i]["content"]) for i in speaks]
        if fixed[0] + "".join(said + after for said, after in zip(contents, fixed[1:], strict=True)) == text:
            break
    else:
        raise refusal
    spans, position = [], len(fixed[0])
    for i, said, after in zip(speaks, contents, fixed[1:], strict=True):
        alone = _render(tokenizer, marked[: i + 1], where).rpartition(MARK.format(i))[2]
        ending = after[: agreeing(alone, after)]
        spans.append((position, position + len(said) + len(ending.rstrip() or ending)))
        position += len(said) + len(after)
    return spans


def agreeing(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many of their first elements two sequences share."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
