"""Texts that two sets share, exactly or nearly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from unlearn_lib.data.batches import Example

SHINGLE = 8
NEAR = 0.5


def without(examples: Sequence[Example], others: Iterable[Example]) -> tuple[Example, ...]:
    """The examples whose tokens are not those of one of the others, in order; what is scored of them does not matter, so that a text
    is found again whose prompt was another part of it. Give whole texts: what is cut may differ behind the cut."""
    gone = {other.input_ids for other in others}
    return tuple(example for example in examples if example.input_ids not in gone)


def near_duplicates(
    examples: Sequence[Example], others: Sequence[Example], shingle: int = SHINGLE, share: float = NEAR
) -> list[int]:
    """The numbers of the examples that share at least half of their runs of 8 tokens with one of the others; exact duplicates count,
    too.

    Cost: linear in the tokens, as long as runs are rarely shared.
    """
    holders: dict[tuple[int, ...], set[int]] = {}
    for number, other in enumerate(others):
        for run in runs(other, shingle):
            holders.setdefault(run, set()).add(number)
    found = []
    for position, example in enumerate(examples):
        mine, common = runs(example, shingle), dict[int, int]()
        for run in mine:
            for number in holders.get(run, ()):
                common[number] = common.get(number, 0) + 1
        if common and max(common.values()) >= share * len(mine):
            found.append(position)
    return found


def runs(example: Example, shingle: int = SHINGLE) -> set[tuple[int, ...]]:
    """All runs of so many consecutive tokens; of a shorter text the whole."""
    ids = example.input_ids
    return {ids[i : i + shingle] for i in range(max(1, len(ids) - shingle + 1))}
