"""Which tokens a text has, and which of them are scored: whatever the tokenizer does, as the whole text has them."""

from typing import Any

import pytest
from tokenizers_made import FOLDING, SENTENCEPIECE, byte_level, characters, llama, metaspace, slow

from unlearn_lib import TrainingConfig, text_losses, train
from unlearn_lib.data.batches import encode
from unlearn_lib.errors import InputError
from unlearn_lib.losses import IGNORED
from unlearn_lib.metrics import accuracy


def read(tokenizer: Any, **row: Any) -> tuple[list[str], list[str]]:
    """The tokens of a row, and those of them that are scored."""
    (example,) = encode([row], tokenizer, 1000).examples
    scored = [label for label in example.labels if label != IGNORED]
    return tokenizer.convert_ids_to_tokens(example.input_ids), tokenizer.convert_ids_to_tokens(scored)


@pytest.mark.parametrize(
    ("tokenizer", "prompt", "completion", "scored"),
    [
        (characters(normalizer=SENTENCEPIECE), "Q?", " A", "▁ A"),
        (characters(normalizer=SENTENCEPIECE), "Q? ", "A", "A"),
        (metaspace(), "Q?", " A", "▁A"),
        (metaspace(), "Q? ", "A", "▁A"),  # it holds the prompt's blank, too
        (byte_level(), "Q?", " A", "ĠA"),
        (byte_level(), "Q? ", "A", "ĠA"),
        (byte_level(), "Q?", "  \n A", "Ġ Ġ Ċ ĠA"),
        (byte_level(), "é", "é", "Ã ©"),
        (
            characters(normalizer=FOLDING),
            " \ufb01\u2460 ",
            "\u2461A ",
            "2 a",
        ),  # one character becomes two, the ends are stripped
        (characters(normalizer=FOLDING), "Q", " ", ""),
        (characters(merges=(("e", "\u0301"),)), "Qe", "\u0301s", "e\u0301 s"),
        (characters(merges=(("?", " "), ("? ", "A"))), "Q?", " As", "?_A s"),
        (slow(), "Q?", " A", "?_ A"),
        (slow(), "Q? ", "A", "A"),
        (slow(), "ab", "cd", "c d"),
    ],
)
def test_prompt_and_completion_are_read_as_one_text(tokenizer: Any, prompt: str, completion: str, scored: str) -> None:
    tokens, found = read(tokenizer, prompt=prompt, completion=completion)
    whole, everything = read(tokenizer, text=prompt + completion)
    assert tokens == whole == everything
    assert found == [*(token.replace("_", " ") for token in scored.split()), "</s>"]


@pytest.mark.parametrize("post", ["$A", "<s> $A", "$A </s>", "<s> $A </s>", "<s> $A </s> <s>"])
def test_one_eos_ends_a_text_and_none_is_inside(post: str) -> None:
    tokenizer, start = characters(post), ["<s>"] * post.startswith("<s>")
    for row in (
        {"text": "abcd"},
        {"text": "abcd</s>"},
        {"prompt": "ab", "completion": "cd"},
        {"prompt": "ab", "completion": "cd</s>"},
    ):
        tokens, scored = read(tokenizer, **row)
        assert tokens == [*start, *"abcd", "</s>"]
        assert scored[-3:] == ["c", "d", "</s>"]
        assert (len(scored) == 3) == ("prompt" in row)


def test_a_text_that_begins_with_its_own_bos_has_one() -> None:
    assert read(characters(), text="<s>ab")[0] == ["<s>", "a", "b", "</s>"]
    assert read(characters("$A"), text="<s>ab")[0] == ["<s>", "a", "b", "</s>"]


@pytest.mark.parametrize("make", [lambda: characters(normalizer=SENTENCEPIECE), metaspace, byte_level])
def test_what_is_known_by_heart_is_answered_right(make: Any) -> None:
    """The losses that training ends with, the losses of the texts, and the answers are all of the same tokens."""
    tokenizer = make()
    questions = [(f"Say {name}?", f" {name[::-1]}") for name in ("Ada", "Bob", "Cleo", "Dirk")]
    rows = [{"prompt": prompt, "completion": completion} for prompt, completion in questions]
    model = llama(len(tokenizer))
    train(model, tokenizer, [{"text": prompt + completion} for prompt, completion in questions], TrainingConfig(60, 1e-2, 4))
    assert accuracy(model, tokenizer, rows) == 100.0
    assert text_losses(model, tokenizer, rows).max() < 0.1
    answers = [completion for _, completion in questions]
    choices = [{"prompt": row["prompt"], "choices": answers, "label": i} for i, row in enumerate(rows)]
    assert accuracy(model, tokenizer, choices) == 100.0


def test_an_answer_ends_without_eos_and_long_prompts_lose_their_beginning() -> None:
    tokenizer = characters()
    model = llama(len(tokenizer), max_position_embeddings=16)
    rows = [{"prompt": "x" * n + "abcdefgh?", "choices": [" A", " B"], "label": 0} for n in (5, 50)]
    assert accuracy(model, tokenizer, rows[:1]) == accuracy(model, tokenizer, rows[1:])  # 16 tokens: BOS and the last 15


def test_a_lone_surrogate_is_named() -> None:
    question = {"prompt": "a\ud800b", "completion": "c"}
    with pytest.raises(InputError, match=r"the question 'a.ud800b': the tokenizer cannot read this text.*valid Unicode"):
        accuracy(llama(120), characters(), [question])
