"""Texts that two sets share, exactly or nearly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from unlearn_lib.data.batches import Example

SHINGLE = 8
NEAR_RUN = 6
NEAR = 0.7
COMMON = 10, 0.05
"""Runs that more than so many texts, and more than this share of all, hold are boilerplate."""


def without(examples: Sequence[Example], others: Iterable[Example]) -> tuple[Example, ...]:
    """The examples whose tokens are not those of one of the others, in order; what is scored of them does not matter, so that a text
    is found again whose prompt was another part of it. Give whole texts: what is cut may differ behind the cut."""
    gone = {other.input_ids for other in others}
    return tuple(example for example in examples if example.input_ids not in gone)


def near_duplicates(
    examples: Sequence[Example], others: Sequence[Example], shingle: int = NEAR_RUN, share: float = NEAR
) -> list[int]:
    """The numbers of the examples that largely repeat one of the others, or that one of the others largely repeats: 70 % of a text's own
    tokens lie in runs of 6 that the other has, too. Runs that many texts have (forms, headers) are no text's own. Exact duplicates
    count, too. It is a rule of thumb for a warning, not a proof that a text is free of another's content.

    Error rates, measured on generated pairs (1,200 of each sort for stories of about 50 tokens and letters of about 200 that share many
    stock phrases, 100 pairs at a time in a set of 300 texts; `tests/test_overlap.py`). Missed: one changed name, 0.7 % of the
    stories, none of the letters; sentences in another order, none; later versions of a private text with several changes, 1 %.
    Wrongly found: unrelated texts, 0.1 % and 0 %; the same head, 70 % of the text, on all texts, 0.8 % and 0 %; a head that only the two
    share, half of the text, 2.9 % and 0 %, 70 % of it, 36 % and 34 %. Of two texts alone, with no others to tell what is common,
    such heads cannot be told from content: half of the text, 4 % of the stories and 87 % of the letters are found.

    Cost: linear in the tokens, as runs that are boilerplate are not compared.
    """
    counts = Counter(run for text in (*examples, *others) for run in runs(text, shingle))
    most = max(COMMON[0], COMMON[1] * (len(examples) + len(others)))
    common = {run for run, count in counts.items() if count > most}
    same = {other.input_ids for other in others}
    found = {number for number, example in enumerate(examples) if example.input_ids in same}
    found |= {number for number, _ in _repeats(examples, others, common, shingle, share)}
    found |= {number for _, number in _repeats(others, examples, common, shingle, share)}
    return sorted(found)


def _repeats(
    texts: Sequence[Example], others: Sequence[Example], common: set[tuple[int, ...]], shingle: int, share: float
) -> Iterator[tuple[int, int]]:
    """(text, other) where at least that share of the text's own tokens, those outside of boilerplate, lie in runs that the other has."""
    holders: dict[tuple[int, ...], list[int]] = {}
    for number, other in enumerate(others):
        for run in runs(other, shingle) - common:
            holders.setdefault(run, []).append(number)
    for position, text in enumerate(texts):
        ids = text.input_ids
        windows = [ids[start : start + shingle] for start in range(max(1, len(ids) - shingle + 1))]
        own = [1] * len(ids)
        for start, run in enumerate(windows):
            if run in common:
                own[start : start + shingle] = [0] * len(run)
        before = [0, *accumulate(own)]  # own tokens in front of each
        until, repeated = dict[int, int](), Counter[int]()
        for start, run in enumerate(windows):
            end = start + len(run)
            for number in holders.get(run, ()):
                repeated[number] += before[end] - before[max(start, until.get(number, 0))]
                until[number] = end
        yield from ((position, number) for number, count in repeated.items() if count and count >= share * before[-1])


def runs(example: Example, shingle: int = SHINGLE) -> set[tuple[int, ...]]:
    """All runs of so many consecutive tokens; of a shorter text the whole."""
    ids = example.input_ids
    return {ids[i : i + shingle] for i in range(max(1, len(ids) - shingle + 1))}
