"""What a deletion from a SISA ensemble trains again: which shards, from which slice on, and on which texts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from unlearn_lib.models.sisa_records import Place, Records, SisaSettings
from unlearn_lib.models.sisa_texts import Text, text_hash
from unlearn_lib.training.sisa import gradients_of


@dataclass(frozen=True)
class Deletion:
    """The deletion of texts from one shard.

    Attributes:
        first: The shard, and its first slice that holds one of the texts: the first that is trained again.
        slices: The texts of all its slices without them.
        changed: Those of the slices that held one.
        count: How many texts are deleted, copies included.
        gradients: Of single sequences that the training takes.
    """

    first: Place
    slices: Sequence[Sequence[Text]]
    changed: Mapping[Place, Sequence[Text]]
    count: int
    gradients: int


def places_of(records: Records, hashes: Collection[str]) -> dict[str, Place]:
    """The slice of every text that is in the ensemble, by the text's hash."""
    return {found: place for place in records.settings.places() for found in records.hashes(place) if found in hashes}


def deletions(records: Records, hashes: Collection[str]) -> list[Deletion]:
    """What it takes to delete the texts with these hashes, shard by shard; texts that are in no shard take nothing."""
    shards: dict[int, set[Place]] = {}
    for place in places_of(records, hashes).values():
        shards.setdefault(place.shard, set()).add(place)
    return [_deletion(records, shards[shard], hashes) for shard in sorted(shards)]


def _deletion(records: Records, places: Collection[Place], hashes: Collection[str]) -> Deletion:
    first, settings = min(places), records.settings
    slices, changed, count = [], dict[Place, Sequence[Text]](), 0
    for place in places_in(settings, first.shard):
        texts = records.slice(place)
        left = [text for text in texts if text_hash(text) not in hashes] if place in places else texts
        if place in places:
            changed[place] = left
        slices.append(left)
        count += len(texts) - len(left)
    return Deletion(first, slices, changed, count, gradients_of(slices, first, settings))


def places_in(settings: SisaSettings, shard: int) -> list[Place]:
    """The slices of a shard, in order."""
    return [place for place in settings.places() if place.shard == shard]
