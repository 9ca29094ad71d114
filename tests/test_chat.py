"""Conversations: the template's own tokens and no others; scored is what the assistant says."""

from typing import Any

import pytest
from tokenizers_made import byte_level, characters, slow

from unlearn_lib.data.batches import encode
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TRIMMED = CHATML.replace("m.content", "m.content | trim")
GENERATION = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}[A]{% generation %}{{ m.content }}</s>{% endgeneration %}"
    "{% else %}[U]{{ m.content }}{% endif %}\n{% endfor %}"
)
LLAMA = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
PLAIN = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{{ eos_token }}"
FIRST_SYSTEM_LAST = (  # as Mistral's: the system prompt stands in the last question
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST]{% if loop.index > messages | length - 2 %}"
    "{{ messages[0].content }}\n{% endif %}{{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
THINKING = CHATML.replace("{{ m.content }}", "{{ m.content.split('</think>')[-1] }}")
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi, Ada?"},
    {"role": "assistant", "content": " Yes: Ada. "},
    {"role": "user", "content": "Yes: Ada."},
    {"role": "assistant", "content": "Bye"},
]


def chatty(tokenizer: Any, template: str) -> Any:
    tokenizer.chat_template = template
    return tokenizer


def read(tokenizer: Any, messages: list[dict[str, Any]], **options: Any) -> tuple[list[int], str]:
    """The tokens of a conversation, and the scored text with a bar wherever something is left out."""
    (example,) = encode([{"messages": messages}], tokenizer, 4000, **options).examples
    pieces, last = [], -1
    for i, label in enumerate(example.labels):
        if label != IGNORED:
            pieces.append(("|" if i != last + 1 else "") + tokenizer.decode([label]))
            last = i
    return list(example.input_ids), "".join(pieces)


@pytest.mark.parametrize("make", [characters, byte_level])
@pytest.mark.parametrize(
    ("template", "start", "said"),
    [
        (CHATML, 1, "| Yes: Ada. <|im_end|>|Bye<|im_end|>"),
        (TRIMMED, 1, "|Yes: Ada.<|im_end|>|Bye<|im_end|>"),
        (GENERATION, 0, "| Yes: Ada. </s>|Bye</s>"),
        (LLAMA, 1, "| Yes: Ada.  </s>|Bye </s>"),
        (PLAIN, 0, "| Yes: Ada. \n|Bye\n</s>"),
        (FIRST_SYSTEM_LAST, 0, "| Yes: Ada. </s>|Bye</s>"),
    ],
)
def test_what_the_assistant_says_is_scored_with_the_mark_that_ends_its_turn(
    make: Any, template: str, start: int, said: str
) -> None:
    tokenizer = chatty(make(), template)
    talk = TALK[start:]
    ids, found = read(tokenizer, talk)
    assert ids == tokenizer.apply_chat_template(talk, tokenize=True, return_dict=False)
    assert found.replace(" |", "|").replace("| ", "|") == said.replace(
        "| ", "|"
    )  # a byte-level token may hold the blank before it
    ids, found = read(tokenizer, talk, assistant_only=False)
    assert found == tokenizer.decode(ids)


def test_the_generation_mask_is_that_of_transformers() -> None:
    tokenizer = chatty(characters(), GENERATION)
    expected = tokenizer.apply_chat_template(TALK, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    (example,) = encode([{"messages": TALK}], tokenizer, 4000).examples
    assert [int(label != IGNORED) for label in example.labels] == expected["assistant_masks"]


@pytest.mark.parametrize("eos", ["</s>", "<|im_end|>"])
@pytest.mark.parametrize("post", ["$A", "<s> $A", "<s> $A </s>"])
def test_nothing_is_put_around_what_the_template_writes(post: str, eos: str) -> None:
    tokenizer = chatty(characters(post, eos=eos), "{{ bos_token }}" + CHATML)
    ids, _ = read(tokenizer, TALK, assistant_only=False)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    assert tokens.count("<s>") == 1
    assert tokens[:2] == ["<s>", "<|im_start|>"]
    assert tokens[-2:] == ["<|im_end|>", "\n"]
    assert "</s>" not in tokens


def test_without_a_turn_of_the_assistant_all_is_scored_and_counted() -> None:
    tokenizer = chatty(characters(), CHATML)
    encoded = encode([{"messages": TALK[1:2]}, {"messages": TALK}], tokenizer, 4000)
    assert encoded.unanswered == 1
    assert encoded.examples[0].labels == encoded.examples[0].input_ids
    assert encode([{"messages": TALK[1:2]}], tokenizer, 4000, assistant_only=False).unanswered == 0


CALL = [{"type": "function", "function": {"name": "ring", "arguments": {}}}]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (THINKING, {"content": "<think>hm</think>Bye"}),
        (CHATML, {"content": [{"type": "text", "text": "Bye"}]}),
        (CHATML + "{{ messages[-1].tool_calls }}", {"content": "Bye", "tool_calls": CALL}),
        (CHATML.replace("m.content", "m.content | replace('e', 'E')"), {"content": "Bye"}),
        (CHATML + "{{ messages[-1].content }}", {"content": "Bye"}),
        (GENERATION.replace("m.role == 'assistant'", "m.role == 'model'"), {"content": "Bye"}),
    ],
)
def test_where_it_cannot_be_told_the_option_is_named(template: str, message: dict[str, Any]) -> None:
    tokenizer = chatty(characters(), template)
    talk = [TALK[1], {"role": "assistant", **message}]
    with pytest.raises(InputError, match=r"row 0: .*assistant_only=False \(--whole-conversation\)"):
        read(tokenizer, talk)
    assert read(tokenizer, talk, assistant_only=False)[1]


def test_a_template_that_keeps_thoughts_apart_is_read_where_there_are_none() -> None:
    assert read(chatty(characters(), THINKING), TALK[1:])[1] == "| Yes: Ada. <|im_end|>|Bye<|im_end|>"


def test_the_reason_of_a_template_that_refuses_is_given() -> None:
    template = "{% if messages[0].content == 'no' %}{{ raise_exception('not this') }}{% endif %}" + CHATML
    with pytest.raises(InputError, match=r"row 0: the chat template refuses the messages \(not this\)"):
        read(chatty(characters(), template), [{"role": "user", "content": "no"}])


def test_a_slow_tokenizer_scores_whole_conversations_alone() -> None:
    tokenizer = chatty(slow(), "{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}")
    with pytest.raises(InputError, match=r"by a fast tokenizer.*--whole-conversation"):
        read(tokenizer, TALK)
    assert read(tokenizer, TALK, assistant_only=False)[1]
