r"""Exact deletion from an ensemble that was trained in shards and slices (SISA; Bourtoule et al. 2021, arXiv 1912.03817).

    for every shard s that holds a text to forget, the first of them in slice j:
        M_{s,j-1}    is kept, because it has seen none of them
        M_{s,k}      is trained again for k = j..R, on the slices 1..k without these texts

The result is that of a training which never had these texts, to the last bit on a CPU: see `unlearn_lib.training.sisa`.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from unlearn_lib.curvature.vector import Vector
from unlearn_lib.data.batches import make_batches
from unlearn_lib.data.examples import by_text
from unlearn_lib.errors import InputError
from unlearn_lib.methods.base import NOTHING, Inputs, Method, Outcome
from unlearn_lib.methods.plan import MethodPlan, backward_bytes, model_bytes, vector_bytes
from unlearn_lib.models.sisa_records import BASE, Place, Records, put
from unlearn_lib.models.sisa_texts import text_hash
from unlearn_lib.training.loop import TrainingConfig
from unlearn_lib.training.sisa import load_base, texts_of, train_slices
from unlearn_lib.training.sisa_deletion import Deletion, deletions, places_of

NAMED = 10
"""The most texts that a refusal names."""
HOW = (
    "train one with train_sisa(base, tokenizer, rows, shards=4, slices=3, folder='ensemble') of unlearn_lib.training.sisa, or give the "
    "folder of one; texts of any other model can be forgotten by the other methods"
)


class Sisa(Method):
    """Train the shards that hold a text to forget again, each from its last checkpoint without one.

    The model is an ensemble, whose folder holds its training texts, as tokens, and the checkpoints, so that no retained texts are
    asked for:

        from unlearn_lib.training.sisa import train_sisa

        config = TrainingConfig(epochs=5, learning_rate=1e-3)
        model = train_sisa("nano/opt-s", tokenizer, rows, shards=4, slices=3, config=config, folder="ensemble")
        result = unlearn(model, tokenizer, forget=rows[:2], method="sisa")
        save_model(result.model, tokenizer, "smaller-ensemble")

    `load_model("ensemble")` gives the ensemble back, and the command takes its folder as the model. A text is found by its tokens, and
    all its copies are deleted. The new folder is complete; the old one has to be there until the new one is saved, and still holds the
    texts. Several deletions one after the other give what a single one of all their texts gives. The checkpoints of the slices that
    were trained again stay in memory until they are saved.

    Options:
        unknown: What becomes of a text to forget that is in no shard: "refuse", which says which it is, or "skip".
    """

    name: ClassVar[str] = "sisa"
    source: ClassVar[str] = "Bourtoule et al. 2021 (arXiv 1912.03817)"
    strength: ClassVar[str] = ""
    form: ClassVar[str] = "sisa"
    remedy: ClassVar[str] = "train the ensemble anew with a lower learning rate"

    unknown: Literal["refuse", "skip"] = "refuse"

    def plan(self, model: Any, inputs: Inputs) -> MethodPlan:
        settings, found = records_of(model).settings, self._deletions(model, inputs, Outcome(model))
        size = TrainingConfig(**settings.training).batch_size
        training = max((training_bytes(model, deletion, size) for deletion in found), default=0.0)
        kept = sum(settings.slices - deletion.first.slice for deletion in found) * vector_bytes(model.shards[0])
        where = ", ".join(f"shard {deletion.first.shard} from slice {deletion.first.slice} on" for deletion in found)
        return MethodPlan(
            sum(deletion.gradients for deletion in found),
            training + kept,
            f"{where or 'nothing'} trained again, of {settings.shards} shards with {settings.slices} slices",
        )

    def run(self, model: Any, inputs: Inputs) -> Outcome:
        outcome, folder = Outcome(model), records_of(model).folder
        found = self._deletions(model, inputs, outcome)
        for deletion in found:
            train_again(model, deletion, inputs, outcome)
        outcome.details["retrained"] = [
            {"shard": deletion.first.shard, "from_slice": deletion.first.slice, "deleted": deletion.count} for deletion in found
        ]
        if found:
            outcome.warnings.append(
                f"the folder {folder} still holds the forgotten texts, as tokens and in the checkpoints of their shards; remove it once "
                "the new ensemble is saved"
            )
        return outcome

    def _deletions(self, model: Any, inputs: Inputs, outcome: Outcome) -> list[Deletion]:
        """What is to be trained again.

        Raises:
            InputError: The model is no ensemble, or a text is in no shard.
        """
        records = records_of(model)
        hashes = [text_hash(text) for text in texts_of(inputs.forget)]
        known = places_of(records, set(hashes))
        missing = [number for number, found in enumerate(hashes) if found not in known]
        if missing:
            self._note_missing([_row(inputs, number) for number in missing], len(hashes), records, outcome)
        return deletions(records, set(hashes))

    def _note_missing(self, rows: list[int], number: int, records: Records, outcome: Outcome) -> None:
        if self.unknown == "skip":
            begin = f"{NOTHING}: " if len(rows) == number else ""
            outcome.warnings.append(f"{begin}{len(rows)} of {number} texts to forget are in no shard and were skipped")
            return
        named = ", ".join(map(str, rows[:NAMED])) + (", ..." if len(rows) > NAMED else "")
        reading = ", ".join(f"{name}={value}" for name, value in records.settings.reading.items())
        raise InputError(
            f"{len(rows)} of {number} texts to forget are in no shard of the ensemble in {records.folder}: rows {named}, counted from 0; "
            f"take them out, or skip them with unknown='skip'; the ensemble's texts were read with {reading}, and a text that is read "
            "otherwise is not found"
        )


def records_of(model: Any) -> Records:
    """What an ensemble knows of its training.

    Raises:
        InputError: The model is no ensemble.
    """
    from unlearn_lib.models.sisa import SisaForCausalLM

    if not isinstance(model, SisaForCausalLM):
        raise InputError(
            f"method 'sisa' takes an ensemble that was trained in shards and slices, and this is a {type(model).__name__}; {HOW}"
        )
    return model.records


def train_again(model: Any, deletion: Deletion, inputs: Inputs, outcome: Outcome) -> None:
    """Train one shard of the ensemble again, which is changed in place, and count the cost."""
    records, first = records_of(model), deletion.first
    worker = load_base(records.existing(BASE), records.settings, model.device)
    if first.slice > 1:
        put(worker, records.checkpoint(Place(first.shard, first.slice - 1)))
    checkpoints: dict[Place, Vector] = {}
    for place, weights, losses in train_slices(worker, deletion.slices, first, records.settings, inputs.progress):
        checkpoints[place] = weights
        outcome.history += [{"train_loss": loss} for loss in losses]
    put(model.shards[first.shard - 1], checkpoints.pop(Place(first.shard, records.settings.slices)))
    model.records = records.changed(deletion.changed, checkpoints)
    outcome.gradient_evaluations += deletion.gradients
    if not any(deletion.slices):
        outcome.warnings.append(f"shard {first.shard} has no text any more: its model is the base")


def training_bytes(model: Any, deletion: Deletion, batch_size: int) -> float:
    """Peak bytes of training one shard again: another model, its optimiser, and a batch of its longest texts."""
    shard = model.shards[deletion.first.shard - 1]
    pieces = sorted(
        (piece for texts in deletion.slices for text in texts for piece in text), key=lambda one: -len(one.input_ids)
    )
    batches = make_batches(pieces[:batch_size], batch_size, model.device)
    return model_bytes(shard) + 3 * vector_bytes(shard) + (backward_bytes(shard, batches) if batches else 0.0)


def _row(inputs: Inputs, number: int) -> int:
    """The row of a text, by its number among the texts to forget."""
    row = inputs.forget[by_text(inputs.forget)[number][0]].row
    return number if row is None else row
