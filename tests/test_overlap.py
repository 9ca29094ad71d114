"""Which texts of two sets are the same, or nearly: error rates on pairs that are made to be one or the other."""

import random
import re
from functools import cache
from typing import Any

import pytest

from unlearn_lib import load_task
from unlearn_lib.data.batches import Example, encode
from unlearn_lib.data.overlap import near_duplicates, without
from unlearn_lib.reproduction.runs.case_bench import sharing_half
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import prepare

HALF, MOST = 0.5, 0.7


@cache
def documents(kind: str, seed: int) -> tuple[str, ...]:
    """Different texts of a kind: stories of about 50 tokens, letters of about 200, which have many stock phrases."""
    options: dict[str, Any] = {"near_duplicates": 0.0} if kind == "email" else {}
    task = load_task(kind, seed=seed, sizes={"train": 400, "holdout": 1, "test": 1, "reference": 0}, **options)
    return tuple(row["text"] for row in task.train)


def sentences(text: str) -> list[str]:
    return [part for part in re.split(r"(?<=[.?!])\s+|\n", text) if part]


def renamed(text: str, rng: random.Random) -> str:
    """One name (or other capitalised word) is another, wherever it stands."""
    words = sorted({word for word in re.findall(r"\b[A-Z][a-z]+\b", text) if len(word) > 3})
    return re.sub(rf"\b{rng.choice(words)}\b", "Quillon", text)


def reordered(text: str, rng: random.Random) -> str:
    parts = sentences(text)
    return " ".join(rng.sample(parts, len(parts))) if len(parts) > 2 else " ".join(parts[::-1])


def headed(head: str, body: str, share: float) -> str:
    """A text of which the head is that share, about, and as much of the body as that leaves."""
    return f"{head} {body[: round(len(head) * (1 - share) / share)]}"


def pairs(kind: str, what: str, seed: int, count: int = 100) -> tuple[list[str], list[str], list[str]]:
    """(retained, forgotten, other retained texts): the first two are pairs of one sort each."""
    texts, rng = documents(kind, seed), random.Random(seed)
    one, other, heads, rest = texts[:count], texts[count : 2 * count], texts[2 * count : 3 * count], list(texts[3 * count :])
    if what == "one changed name":
        return [renamed(text, rng) for text in one], list(one), rest
    if what == "reordered sentences":
        return [reordered(text, rng) for text in one], list(one), rest
    if what == "unrelated":
        return list(other), list(one), rest
    share = MOST if "most" in what else HALF
    heads = (heads[0],) * count if "of all texts" in what else heads
    made = [[headed(head, body, share) for head, body in zip(heads, part, strict=True)] for part in (other, one)]
    return made[0], made[1], rest


def rate(tokenizer: Any, kind: str, what: str, seed: int, count: int = 100) -> float:
    """The share of the pairs that are called near-duplicates, all in one set."""
    retained, forgotten, rest = (
        encode([{"text": text} for text in part], tokenizer, 10_000).examples for part in pairs(kind, what, seed, count)
    )
    return sum(i < count for i in near_duplicates([*retained, *rest], forgotten)) / count


# Over the twelve samples 1 to 12 of 100 pairs each: what the docstring of `near_duplicates` says.
MEASURED = {
    ("lambada", "one changed name"): 0.993,
    ("lambada", "reordered sentences"): 1.0,
    ("lambada", "unrelated"): 0.001,
    ("lambada", "most the head of all texts"): 0.0075,
    ("lambada", "half a head"): 0.029,
    ("lambada", "most a head"): 0.3625,
    ("email", "one changed name"): 1.0,
    ("email", "reordered sentences"): 1.0,
    ("email", "unrelated"): 0.0,
    ("email", "most the head of all texts"): 0.0,
    ("email", "half a head"): 0.0,
    ("email", "most a head"): 0.338,
}


@pytest.mark.parametrize(
    ("kind", "what"), [key for key in MEASURED if key[0] == "lambada" or key[1] in ("unrelated", "half a head")]
)
def test_the_error_rates_are_those_that_are_stated(kind: str, what: str, tokenizer: Any) -> None:
    """Of another sample: within three standard errors of a share of 100 (at least two pairs)."""
    expected, count = MEASURED[kind, what], 100
    margin = max(3 * (expected * (1 - expected) / count) ** 0.5, 2 / count)
    assert abs(rate(tokenizer, kind, what, 0, count) - expected) <= margin


@pytest.mark.nightly
@pytest.mark.parametrize(("kind", "what"), MEASURED)
def test_the_stated_error_rates_are_what_twelve_samples_give(kind: str, what: str, tokenizer: Any) -> None:
    rates = [rate(tokenizer, kind, what, seed) for seed in range(1, 13)]
    assert sum(rates) / 12 == pytest.approx(MEASURED[kind, what], abs=1e-3)


def text(*numbers: int) -> Example:
    return Example(numbers, numbers)


def test_a_text_that_stands_in_a_longer_one_is_found_either_way() -> None:
    short, long = text(*range(20, 40)), text(*range(100))
    assert near_duplicates([short], [long]) == near_duplicates([long], [short]) == [0]
    assert near_duplicates([text(*range(200, 300))], [long]) == []


def test_what_every_text_has_is_not_compared() -> None:
    forms = [text(*range(50), *range(1000 * i, 1000 * i + 12)) for i in range(1, 31)]
    assert near_duplicates(forms[1:], forms[:1]) == []
    assert near_duplicates(forms[1:2], forms[:1]) == [0]  # of two texts alone it cannot be told
    # an exact copy counts although it has nothing of its own
    assert near_duplicates([*forms[1:], text(*range(50))], [text(*range(50))]) == [29]


def test_two_thirds_are_not_enough() -> None:
    for share, found in ((0.69, []), (0.7, [0])):
        same = round(100 * share)
        assert near_duplicates([text(*range(100))], [text(*range(same), *range(500, 600 - same))]) == found


def test_exact_duplicates_are_the_same_tokens_whatever_is_scored() -> None:
    one, other = Example((1, 2, 3), (1, 2, 3)), Example((1, 2, 3), (-100, -100, 3))
    assert without([one, text(4, 5)], [other]) == (text(4, 5),)


def test_the_case_studies_keep_their_own_rule() -> None:
    runs = [text(*range(16)), text(*range(12), 90, 91, 92, 93), text(*range(11), 90, 91, 92, 93, 94)]
    assert sharing_half(runs, runs[:1]) == [0, 1]  # 9, 5 and 4 of 9 runs


def test_near_duplicates_are_a_warning_only(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    near = {"text": texts[0]["text"] + " And so it ended."}
    prepared = prepare(tiny(), tokenizer, Request(forget=texts[:1], retain=[*texts[5:9], near], method="npo"))
    (warning,) = [warning for warning in prepared.warnings if "share half or more" in warning]
    assert warning.startswith("1 retain texts share half or more of their text with a forget text")
    assert len(prepared.inputs.retain) == 5
