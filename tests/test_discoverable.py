"""Discoverable extraction: against generation itself, of texts known by heart, and which texts are long enough."""

from typing import Any

import pytest
import torch

from unlearn_lib.data.batches import Example, encode
from unlearn_lib.errors import InputError
from unlearn_lib.metrics.discoverable import Discoverable, discoverable
from unlearn_lib.metrics.extraction import Draws, continuations
from unlearn_lib.metrics.generation import greedy_continuations


@pytest.fixture(scope="module")
def known(tokenizer: Any, texts: list[dict[str, str]]) -> list[Example]:
    """The first 24 are those that `memorised` was trained on."""
    return list(encode(texts, tokenizer, 256).examples)


@pytest.mark.parametrize("tokens", [6, None])
def test_greedy_shares_are_those_of_generation(memorised: Any, known: list[Example], tokens: int | None) -> None:
    known = known[::4]
    for one in discoverable(memorised, known, (4, 8), tokens=tokens, batch_size=7):
        wanted = {i: text.input_ids[one.prefix :][:tokens] for i, text in enumerate(known)}
        wanted = {i: rest for i, rest in wanted.items() if len(rest) == (tokens or len(rest)) and rest}
        assert one.texts == len(wanted)
        hits = [
            i
            for i, rest in wanted.items()
            if greedy_continuations(memorised, [known[i].input_ids[: one.prefix]], len(rest), ends=())[0] == rest
        ]
        assert list(one.found) == hits
        assert one.greedy == len(hits) / len(wanted)


def test_what_is_known_by_heart_is_found(memorised: Any, known: list[Example]) -> None:
    (learnt,), (unseen,) = (discoverable(memorised, rows, (8,), tokens=6, draws=3) for rows in (known[:24], known[24:]))
    assert learnt.greedy is not None
    assert learnt.drawn is not None
    assert learnt.greedy > 0.7
    assert learnt.drawn > 0.3
    assert unseen.greedy == unseen.drawn == 0.0


def test_draws_are_those_of_extraction(memorised: Any, known: list[Example]) -> None:
    """With one token to draw from a draw is greedy; otherwise one of several draws is enough, and the seed says which they are."""
    (one,) = discoverable(memorised, known, (8,), tokens=6, draws=2, top_k=1)
    assert one.drawn == one.greedy
    state = torch.get_rng_state()
    (found,) = discoverable(memorised, known, (8,), tokens=6, draws=4, top_k=30, seed=3)
    assert torch.equal(state, torch.get_rng_state())
    long = [Example(text.input_ids[:14], text.input_ids[:14]) for text in known if len(text.input_ids) >= 14]
    drawn = continuations(memorised, long, Draws(8, 4, 30), seed=3)
    hits = sum(any(row == text.input_ids[8:] for row in rows) for rows, text in zip(drawn, long, strict=True))
    assert found.drawn == hits / len(long)
    assert (found.texts, found.greedy) == (one.texts, one.greedy)


def test_prompts_count_as_text(memorised: Any, known: list[Example]) -> None:
    prompted = [Example(text.input_ids, (*[-100] * 9, *text.labels[9:])) for text in known]
    assert discoverable(memorised, prompted, tokens=6, prefixes=(4, 8)) == discoverable(
        memorised, known, tokens=6, prefixes=(4, 8)
    )


def test_only_texts_that_are_long_enough_count(memorised: Any) -> None:
    """Texts of 8, 11 and 12 tokens: of prefix and six tokens 4 + 6, 5 + 6, 6 + 6 and 7 + 6."""
    examples = [Example(tuple(range(2, 2 + n)), tuple(range(2, 2 + n))) for n in (8, 11, 12)]
    found = discoverable(memorised, examples, (2, 4, 5, 6, 7), tokens=6)
    assert [one.texts for one in found] == [3, 2, 2, 1, 0]
    assert found[-1] == Discoverable(7, 0, None, None, ())
    assert [one.texts for one in discoverable(memorised, examples, (7, 8, 11, 12), tokens=None, draws=1)] == [3, 2, 1, 0]


def test_what_cannot_be_measured_is_refused(memorised: Any, known: list[Example]) -> None:
    for examples, prefixes, options, message in (
        ([], (4,), {}, "at least one text"),
        (known, (), {}, "at least one text and one length"),
        (known, (4, 0), {}, "at least 1"),
        (known, (4,), {"tokens": 0}, "at least 1"),
        (known, (4,), {"draws": -1}, "draws at least 0"),
        (known, (400,), {}, "takes 450; give longer texts"),
        ([Example((1, 2), (1, 2), row=0)] * 2, (1,), {"tokens": 1}, "pieces of one text"),
    ):
        with pytest.raises(InputError, match=message):
            discoverable(memorised, examples, prefixes, **options)  # type: ignore[arg-type]
