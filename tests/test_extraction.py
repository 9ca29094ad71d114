"""Extraction by sampling: the measures by hand, the draws against greedy decoding, and a text that a model knows by heart."""

import copy
from typing import Any

import pytest
import torch

from unlearn_lib import InputError, load_model
from unlearn_lib.data.batches import Example, encode
from unlearn_lib.metrics.extraction import Criterion, Draws, closeness, continuations, found
from unlearn_lib.training.loop import TrainingConfig, fit


@pytest.fixture
def nano() -> Any:
    return load_model("nano/opt-s", device="cpu")


def example(*ids: int) -> Example:
    return Example(ids, ids)


def test_the_measures_by_hand() -> None:
    text = example(9, 9, 1, 2, 3, 4)  # after a prefix of two, 1 2 3 4 is to be found
    best = closeness([(1, 2, 5, 4), (2, 3, 4)], text, prefix=2)
    assert best == {"run": 2.0, "rouge": 3 / 4, "edit": 3 / 4}  # both draws miss one of four; only the first starts right
    assert closeness([(1, 2, 3, 4, 5)], text, prefix=2) == {"run": 4.0, "rouge": 1.0, "edit": 4 / 5}
    assert closeness([()], text, prefix=2) == {"run": 0.0, "rouge": 0.0, "edit": 0.0}


def test_a_criterion_is_met_from_its_threshold_on() -> None:
    best = {"run": 30.0, "rouge": 0.8, "edit": 0.7}
    assert Criterion("run", 30).holds(best)
    assert not Criterion("run", 31).holds(best)
    assert [Criterion("rouge", 0.8).holds(best), Criterion("edit", 0.8).holds(best)] == [True, False]


def test_what_the_prompt_gives_away_is_not_found() -> None:
    secrets = {"chart": "88296", "phone": "661 8553", "name": "Lena Upjohn"}
    written = [" Lena Upjohn, phone 661 8550.", "Chart 88296."]
    assert found(secrets, "Chart 88296.", written) == {"phone": False, "name": True}


def test_with_one_token_to_choose_from_sampling_is_greedy(nano: Any) -> None:
    model, tokenizer = nano
    examples = encode([{"text": "The brinwort flowers in deep winter."}], tokenizer, 64).examples
    greedy = model.generate(
        torch.tensor([examples[0].input_ids[:5]]),
        do_sample=False,
        max_new_tokens=len(examples[0].input_ids) - 5,
        pad_token_id=1,
        eos_token_id=1,
    )[0, 5:].tolist()
    greedy = greedy[: greedy.index(1) + 1] if 1 in greedy else greedy
    drawn = continuations(model, examples, Draws(prefix=5, number=3, top_k=1))[0]
    assert drawn == [tuple(greedy)] * 3


def test_draws_are_repeatable_and_leave_the_generator_alone(nano: Any) -> None:
    model, tokenizer = nano
    texts = [
        {"text": "Frida Kelloway works at the mill with Otto."},
        {"text": "Chart 88296. Lena Upjohn, born 3 November 1979."},
    ]
    examples = encode(texts, tokenizer, 64).examples
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = continuations(model, examples, Draws(number=2), seed=1)
    assert torch.equal(state, torch.get_rng_state())
    assert (
        first
        == continuations(model, examples, Draws(number=2), seed=1)
        != continuations(model, examples, Draws(number=2), seed=2)
    )
    for drawn, text in zip(first, examples, strict=True):
        assert all(len(row) <= len(text.input_ids) - 10 for row in drawn)


def test_a_text_learnt_by_heart_comes_back_whole(nano: Any) -> None:
    model, tokenizer = nano
    text = {"text": "Chart 88296. Lena Upjohn, born 3 November 1979. Phone 661 8553."}
    examples = encode([text], tokenizer, 64).examples
    before = closeness(continuations(model, examples)[0], examples[0], 10)
    fit(model, examples, TrainingConfig(60, 3e-3, 1))
    after = closeness(continuations(model, examples)[0], examples[0], 10)
    assert before["edit"] < 0.9
    assert after == {"run": len(examples[0].input_ids) - 10, "rouge": 1.0, "edit": 1.0}


def test_a_text_that_ends_with_its_prefix_is_refused(nano: Any) -> None:
    model, _ = nano
    with pytest.raises(InputError, match="text 1 has 3 tokens"):
        continuations(model, [example(*range(12)), example(1, 2, 3)])


def test_only_what_ends_a_text_is_taken_from_a_model(nano: Any) -> None:
    """Several end tokens (the generation settings of chat models), several sequences, beams: the draws are the same."""
    model, tokenizer = nano
    examples = encode([{"text": "The brinwort flowers in deep winter, and so does the heath."}], tokenizer, 64).examples
    expected = continuations(model, examples, Draws(prefix=5, number=3), seed=1)
    own = model.generation_config
    model.generation_config = copy.deepcopy(own)
    model.generation_config.update(num_return_sequences=3, repetition_penalty=9.0, top_k=1, num_beams=3, eos_token_id=[1])
    changed = model.generation_config
    assert continuations(model, examples, Draws(prefix=5, number=3), seed=1) == expected
    assert model.generation_config is changed
    # a token that was drawn early ends a draw now, in either configuration
    stop = expected[0][0][3]
    for where in (model.generation_config, model.config):
        where.eos_token_id = [1, stop]
        drawn = continuations(model, examples, Draws(prefix=5, number=3), seed=1)
        assert drawn[0][0] == expected[0][0][: expected[0][0].index(stop) + 1]
        where.eos_token_id = 1
    for where in (model.generation_config, model.config):
        where.eos_token_id = None
    assert {len(row) for row in continuations(model, examples, Draws(prefix=5, number=3))[0]} == {
        len(examples[0].input_ids) - 5
    }


def test_draws_out_of_range_are_refused(nano: Any) -> None:
    with pytest.raises(InputError, match="must be at least 1"):
        continuations(nano[0], [example(*range(12))], Draws(prefix=0))
