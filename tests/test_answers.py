"""Greedy answers against greedy decoding token by token, whatever the batches and the model's own settings."""

from typing import Any

import pytest
import torch

from unlearn_lib.errors import InputError
from unlearn_lib.metrics.answers import answers, continued
from unlearn_lib.metrics.generation import same_length

PROMPTS = ["A", "The mill of Tarn", "On 3 May", "In Keld there is", "Question: Who?\nAnswer:", "A"]


def by_hand(model: Any, ids: tuple[int, ...], most: int, ends: set[int]) -> tuple[int, ...]:
    """One prompt, one token at a time, all of the text anew each time."""
    written = list(ids)
    with torch.no_grad():
        while len(written) < len(ids) + most:
            token = int(model(torch.tensor([written]), use_cache=False).logits[0, -1].argmax())
            if token in ends:
                break
            written.append(token)
    return tuple(written[len(ids) :])


def test_same_length_keeps_all_positions_and_the_order_of_each_length() -> None:
    assert list(same_length([3, 1, 3, 3, 1], 2)) == [[0, 2], [3], [1, 4]]
    assert list(same_length([], 2)) == []


@pytest.mark.parametrize("family", ["opt", "neo"])
def test_answers_are_greedy_and_do_not_depend_on_batches(tiny: Any, tokenizer: Any, family: str) -> None:
    model = tiny(family)
    ends = {tokenizer.eos_token_id}
    expected = [
        tokenizer.decode(by_hand(model, tuple(tokenizer(prompt).input_ids), 7, ends), skip_special_tokens=True)
        for prompt in PROMPTS
    ]
    assert len(set(expected)) > 1
    for batch_size in (1, 2, 64):
        assert answers(model, tokenizer, PROMPTS, 7, batch_size) == expected
    assert answers(model, tokenizer, PROMPTS[::-1], 7) == expected[::-1]
    assert answers(model, tokenizer, [], 7) == []


def test_an_answer_ends_where_the_text_ends(tiny: Any) -> None:
    """Whatever tokens end a text, the rows of a batch that have ended are not written on."""
    model, prompts = tiny("opt"), [(5, 6), (7, 8), (9,), (11, 12)]
    free = continued(model, prompts, 6, 64, ())
    assert [len(row) for row in free] == [6] * 4
    end = free[1][2]
    stops = [row.index(end) if end in row else len(row) for row in free]
    assert stops[1] <= 2
    for batch_size in (1, 4):
        assert continued(model, prompts, 6, 64, (end,), batch_size) == [
            row[:stop] for row, stop in zip(free, stops, strict=True)
        ]


def test_answers_stop_at_the_context(tiny: Any) -> None:
    for family in ("opt", "neo"):
        model = tiny(family)
        context = model.config.max_position_embeddings
        prompts = [tuple(2 + i % 50 for i in range(length)) for length in (context - 1, context - 3, 1)]
        assert [len(row) for row in continued(model, prompts, 5, context, ())] == [1, 3, 5]
        with pytest.raises(InputError, match=rf"prompt 1 has {context} tokens, and the model's context holds {context}"):
            continued(model, [(2,), tuple([2] * context)], 5, context, ())


def test_what_cannot_be_answered_is_refused(tiny: Any, tokenizer: Any) -> None:
    model = tiny("opt")
    with pytest.raises(InputError, match="prompt 1 has 0 tokens"):
        answers(model, tokenizer, ["A", ""], 4)
    for most, batch_size in ((0, 1), (1, 0)):
        with pytest.raises(InputError, match=f"at least 1; got {most} and {batch_size}"):
            answers(model, tokenizer, ["A"], most, batch_size)


def test_the_models_own_settings_do_not_matter_and_stay(tiny: Any, tokenizer: Any) -> None:
    model = tiny("opt")
    expected = answers(model, tokenizer, PROMPTS, 5)
    model.generation_config.update(num_beams=2, do_sample=True, repetition_penalty=5.0, max_new_tokens=1, min_new_tokens=4)
    own = model.generation_config
    assert answers(model, tokenizer, PROMPTS, 5) == expected
    assert model.generation_config is own
