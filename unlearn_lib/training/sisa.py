r"""Training in shards and slices (SISA; Bourtoule et al. 2021, arXiv 1912.03817), so that a text can be deleted exactly.

    shard s = 1..S      a model of its own, which sees the texts of its shard alone
    slice k = 1..R      M_{s,k} = M_{s,k-1} trained on the slices 1..k of the shard, with an optimiser of its own;  M_{s,0} = base

All M_{s,k} are kept. To delete a text of slice k, M_{s,k-1} is trained again on slices k..R without it.

That is the same, to the last bit on a CPU, as if the text had never been there, because nothing else depends on it: shard and slice of
a text follow from its own tokens and the seed, not from the other texts; within a slice texts stand in the order of their hashes;
and order and dropout of a training are drawn from the seed, the shard and the slice. (The paper deals the texts out in equal parts. By
hash the parts are equal in expectation alone, and copies of a text are all in one slice.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import torch

from unlearn_lib.curvature.gradient import trainable
from unlearn_lib.curvature.vector import Vector
from unlearn_lib.data.batches import Example, LongTexts, encode, sequence_length
from unlearn_lib.data.examples import by_text
from unlearn_lib.data.given import rows_of
from unlearn_lib.errors import InputError, unknown
from unlearn_lib.files import by_umask, new_folder
from unlearn_lib.losses import without_autocast
from unlearn_lib.models.forms import write_form
from unlearn_lib.models.load import load_model, save_model
from unlearn_lib.models.sisa_records import (
    BASE,
    FORM,
    Average,
    Place,
    SisaSettings,
    only_trained,
    write_checkpoint,
    write_slice,
)
from unlearn_lib.models.sisa_texts import Text, text_hash
from unlearn_lib.models.suited import check_tokenizer
from unlearn_lib.ranks import ranks
from unlearn_lib.training.loop import Progress, TrainingConfig, check_trainable, fit


@without_autocast()
def train_sisa(
    base: Any,
    tokenizer: Any,
    rows: Any,
    *,
    shards: int,
    slices: int,
    config: TrainingConfig | None = None,
    seed: int = 0,
    folder: str | Path,
    average: Average = "probabilities",
    max_length: int | None = None,
    long_texts: LongTexts = "split",
    assistant_only: bool = True,
    progress: Progress | None = None,
) -> Any:
    """Train an ensemble from which the method "sisa" can delete texts, and keep all that it needs for that.

    Args:
        base: The checkpoint that every shard starts from: a plain causal language model, which is left as it is, or what `load_model`
            takes. What of it requires a gradient is trained, in float32 at least.
        tokenizer: Its tokenizer.
        rows: The texts, as `rows_of` takes them.
        shards: S. Each is a model of the size of the base.
        slices: R, in each shard.
        config: Of the training after each slice. With `epochs` 2 e / (R + 1) an ensemble takes as many gradients as e epochs
            without slices do, if the slices are of one size.
        seed: Of the places of texts, their order and the dropout.
        folder: What is written; it must not exist, or be empty. It holds the base, the training texts as tokens, and S R checkpoints:
            keep it as secret as the texts.
        average: What of the shards is averaged: their probabilities, or their logits.
        max_length, long_texts, assistant_only: How texts are read, as by `unlearn`. Read the texts to forget in the same way.
        progress: Called with (step, steps, loss) after every step; steps are counted anew for every slice.

    Returns:
        The ensemble, as `load_model(folder)` gives it, on the base's device.

    Raises:
        InputError: A number below 1, another average, no texts, a base that is an adapter or an ensemble itself, a shard without texts,
            several processes.
        NumericsError: As `fit`.
        FileExistsError: There is something in the folder already.

    Cost: `epochs` gradients over the slices 1..k for every slice k: (R + 1) / 2 times `epochs` over all texts.
    """
    from unlearn_lib.models.sisa import SisaForCausalLM

    if ranks().size > 1:
        raise InputError(
            "an ensemble is written as it is trained, which one process does: call train_sisa outside of data_parallel, and share the "
            "requests to forget"
        )
    if shards < 1 or slices < 1:
        raise InputError(f"an ensemble has at least one shard and one slice, got shards={shards} and slices={slices}")
    if average not in get_args(Average):
        raise unknown("value of average", average, get_args(Average))
    model = load_model(base)[0] if isinstance(base, (str, Path)) else base
    if hasattr(model, "peft_config") or isinstance(model, SisaForCausalLM):
        raise InputError(
            f"the base of an ensemble is a plain model, and this is a {type(model).__name__}; merge an adapter into its model first "
            "(merge_and_unload)"
        )
    check_tokenizer(model, tokenizer)
    check_trainable(model)
    length, given = sequence_length(model, tokenizer, max_length), rows_of(rows, "training")
    examples = encode(given, tokenizer, length, long_texts=long_texts, assistant_only=assistant_only).examples
    settings = SisaSettings(
        shards=shards,
        slices=slices,
        average=average,
        seed=seed,
        dtype="float64" if model.dtype == torch.float64 else "float32",
        trained=tuple(trainable(model)),
        training=asdict(config or TrainingConfig()),
        reading={"max_length": length, "long_texts": long_texts, "assistant_only": assistant_only},
    )
    dealt = deal(texts_of(examples), settings)
    for shard in range(1, shards + 1):
        if not any(dealt[place] for place in dealt if place.shard == shard):
            raise InputError(f"shard {shard} of {shards} has none of the {len(by_text(examples))} texts; take fewer shards")
    with new_folder(folder) as out, by_umask(out):
        save_model(model, tokenizer, out / BASE)
        tokenizer.save_pretrained(out)
        for place, texts in dealt.items():
            write_slice(out, place, texts)
        for shard in range(1, shards + 1):
            worker = load_base(out / BASE, settings, model.device)
            parts = [dealt[Place(shard, number)] for number in range(1, slices + 1)]
            for place, weights, _ in train_slices(worker, parts, Place(shard, 1), settings, progress):
                write_checkpoint(out, place, weights)
        write_form(out, FORM, settings.model_dump())
    return load_model(folder, device=str(model.device), dtype=settings.dtype)[0]


def load_base(folder: Path, settings: SisaSettings, device: torch.device | str) -> Any:
    """The checkpoint that the shards start from, in the number format of their training; what is trained alone requires a gradient."""
    return only_trained(load_model(folder, device=str(device), dtype=settings.dtype)[0], settings)


def texts_of(examples: Sequence[Example]) -> list[Text]:
    """The texts that sequences are of, without the numbers of their rows."""
    return [tuple(Example(examples[i].input_ids, examples[i].labels) for i in group) for group in by_text(examples)]


def deal(texts: Iterable[Text], settings: SisaSettings) -> dict[Place, list[Text]]:
    """The texts of every slice. Where a text is follows from its tokens and the seed; the order in which they are given does not matter."""
    dealt: dict[Place, list[Text]] = {place: [] for place in settings.places()}
    for text in texts:
        number = _number(settings.seed, text_hash(text))
        shard, number = number % settings.shards, number // settings.shards
        dealt[Place(shard + 1, number % settings.slices + 1)].append(text)
    for found in dealt.values():
        found.sort(key=lambda text: (text_hash(text), [piece.labels for piece in text]))
    return dealt


def train_slices(
    model: Any, slices: Sequence[Sequence[Text]], first: Place, settings: SisaSettings, progress: Progress | None = None
) -> Iterator[tuple[Place, Vector, list[float]]]:
    """Train a shard from slice `first` on; its model stands where the slice before left it, and is changed in place.

    Args:
        model: The shard's model.
        slices: The texts of all its slices.
        first: The shard, and the slice that is trained first.
        settings: Of the ensemble.
        progress: As of `fit`.

    Yields:
        `(slice, trained parameters after it, on the CPU, loss of every step)`. While the slices so far have no text the model stays
        as it is.
    """
    config = TrainingConfig(**settings.training)
    for number in range(first.slice, settings.slices + 1):
        seen, losses = _sequences(slices, number), []
        if seen:
            seed = _number(settings.seed, first.shard, number)
            losses = fit(model, seen, config, seed=seed, progress=progress)
        weights = {name: p.detach().cpu().clone() for name, p in trainable(model).items()}
        yield Place(first.shard, number), weights, losses


def gradients_of(slices: Sequence[Sequence[Text]], first: Place, settings: SisaSettings) -> int:
    """The gradients of single sequences that `train_slices` takes."""
    epochs = TrainingConfig(**settings.training).epochs
    return sum(round(epochs * len(_sequences(slices, number))) for number in range(first.slice, settings.slices + 1))


def _sequences(slices: Sequence[Sequence[Text]], number: int) -> list[Example]:
    """The sequences of the slices up to this one."""
    return [piece for texts in slices[:number] for text in texts for piece in text]


def _number(*parts: object) -> int:
    """A number of 60 bits that is drawn from what it is made of."""
    return int(hashlib.sha256(" ".join(map(str, parts)).encode()).hexdigest()[:15], 16)
