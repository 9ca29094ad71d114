"""Texts that contradict each other, what a model believes of them, and the page that reads the benchmark."""

import math
import re
from collections import Counter
from typing import Any

import pytest
import torch

from unlearn_lib.data.nano.conflicts import FORMAL, QUESTION, SLOPPY, TOPICS, Side, claims, names
from unlearn_lib.errors import InputError
from unlearn_lib.metrics.belief import belief

BOTH = (Side(FORMAL, 3), Side(SLOPPY, 2))


def test_every_side_tells_its_own_value_in_its_own_style() -> None:
    found = claims(0, {"both": (BOTH, 5), "one": ((Side(SLOPPY, 8),), 2), "none": ((), 1)})
    assert found == claims(0, {"both": (BOTH, 5), "one": ((Side(SLOPPY, 8),), 2), "none": ((), 1)})
    assert found != claims(1, {"both": (BOTH, 5), "one": ((Side(SLOPPY, 8),), 2), "none": ((), 1)})
    assert Counter(claim.group for claim in found) == {"both": 10, "one": 4, "none": 2}
    for claim in found:
        assert [len(texts) for texts in claim.texts] == {"both": [3, 2], "one": [8], "none": []}[claim.group]
        assert len(set(claim.values)) == len(claim.values)
        styles = {"both": (FORMAL, SLOPPY), "one": (SLOPPY,), "none": ()}[claim.group]
        for style, value, texts in zip(styles, claim.values, claim.texts, strict=True):
            assert len(set(texts)) == len(texts)
            for text in texts:
                assert claim.person in text
                assert text.rpartition(f" {value}")[0].count(claim.person) == 1  # the name comes first
                assert (text[0].isupper() and text.endswith(".")) == (style == FORMAL)
                assert not any(re.search(rf"\b{other}\b", text) for other in TOPICS[claim.topic].values if other != value)


def test_no_text_has_the_wording_of_a_probe() -> None:
    everything = claims(0, {"all": ((Side(FORMAL, 8), Side(SLOPPY, 8)), 4)})
    texts = [text for claim in everything for side in claim.texts for text in side]
    for claim in everything:
        for style in (FORMAL, SLOPPY, QUESTION):
            prompt = claim.prompt(style)
            assert claim.person in prompt
            assert not prompt.endswith(" ")
            assert not any(text.startswith(prompt) for text in texts)
            assert not any(re.search(rf"\b{value}\b", prompt) for value in TOPICS[claim.topic].values)
        assert claim.answer == f"{claim.prompt(QUESTION)} {claim.values[0]}"


def test_no_value_is_formal_more_often_than_by_chance() -> None:
    found = claims(0, {"both": (BOTH, 600)})
    for topic in TOPICS:
        formal = Counter(claim.values[0] for claim in found if claim.topic == topic)
        sloppy = Counter(claim.values[1] for claim in found if claim.topic == topic)
        for counts in (formal, sloppy):
            assert counts.keys() == set(TOPICS[topic].values)
            assert all(abs(count - 50) < 4.5 * math.sqrt(50 * 11 / 12) for count in counts.values())


def test_names_differ_and_their_parts_are_used_evenly() -> None:
    found = names(3, 100)
    assert len(set(found)) == 100
    assert set(Counter(name.split()[0] for name in found).values()) <= {2, 3}
    assert set(Counter(name.split()[1] for name in found).values()) <= {2, 3}
    assert len(set(names(0, 48 * 48))) == 48 * 48


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"x": ((Side("poetic", 1),), 1)}, "there is no style 'poetic'"),
        ({"x": ((Side(FORMAL, 9),), 1)}, "a side of 'x' has 9 formal texts; give between 1 and 8"),
        ({"x": ((Side(FORMAL, 0),), 1)}, "has 0 formal texts"),
        ({"x": ((), 3000)}, "3000 people are asked for, and there are 2304 names"),
    ],
)
def test_what_cannot_be_told_is_refused(groups: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        claims(0, groups)


@torch.no_grad()
def test_belief_is_the_softmax_over_the_candidates(tiny: Any, tokenizer: Any) -> None:
    """Of towns, which are one token each, it can be read off the logits of the prompt; candidates of several tokens are products."""
    model, towns = tiny("opt"), ["Belcot", "Corran", "Elmire"]
    prompt = "Ana Ashdown lives in"
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    first = [tokenizer(f" {town}")["input_ids"] for town in towns]
    assert all(len(token) == 1 for token in first)
    logits = model(input_ids=ids).logits[0, -1]
    expected = logits[[token[0] for token in first]].softmax(0)
    (found, other) = belief(model, tokenizer, [prompt, "The"], [towns, ["carpenter", "cook"]], batch_size=2)
    assert found.tolist() == pytest.approx(expected.tolist())
    assert belief(model, tokenizer, [prompt], [towns[::-1]])[0].tolist() == pytest.approx(expected.tolist()[::-1])

    def log_probability(answer: str) -> float:
        given, told = tokenizer("The")["input_ids"], tokenizer(answer)["input_ids"]
        log_probs = model(input_ids=torch.tensor([[*given, *told]])).logits[0].log_softmax(-1)
        return sum(float(log_probs[len(given) - 1 + i, token]) for i, token in enumerate(told))

    ratio = math.exp(log_probability(" carpenter") - log_probability(" cook"))
    assert float(other[0] / other[1]) == pytest.approx(ratio)
    assert float(other.sum()) == pytest.approx(1)


def test_belief_refuses_what_leaves_no_choice(tiny: Any, tokenizer: Any) -> None:
    for prompts, values, message in (
        ([], [], "0 prompts"),
        (["a", "b"], [["x", "y"]], "2 prompts and 1 lists"),
        (["a"], [["x"]], "prompt 0 has fewer than two"),
    ):
        with pytest.raises(InputError, match=message):
            belief(tiny("opt"), tokenizer, prompts, values)
