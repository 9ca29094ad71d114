"""What lies in the folder of a SISA ensemble: the base, the texts of every slice as tokens, and the weights after every slice.

    unlearn_form.json                 how it was trained
    base/                             the checkpoint that every shard started from
    shard-1/texts-1.safetensors       the texts of a slice: tokens and labels; in the header the hash of every text
    shard-1/model-1.safetensors       the trained parameters after this slice, of the last slice those of the ensemble

The folder holds the training texts: whoever can read it can read them. Shards and slices are counted from 1.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field

from unlearn_lib.curvature.vector import Vector
from unlearn_lib.errors import InputError
from unlearn_lib.models.forms import write_form
from unlearn_lib.models.sisa_texts import Text, read_hashes, read_texts, text_hash, write_texts

FORM = "sisa"
BASE = "base"
Average = Literal["probabilities", "logits"]
"""What of the shards is averaged."""


class Place(NamedTuple):
    """A slice of a shard, each counted from 1."""

    shard: int
    slice: int


class SisaSettings(BaseModel):
    """How an ensemble was trained.

    `dtype` is the number format of its training; `trained` names the parameters that were trained; `training` holds the fields of
    `TrainingConfig`, `reading` how texts became sequences.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    shards: int = Field(ge=1)
    slices: int = Field(ge=1)
    average: Average
    seed: int
    dtype: Literal["float32", "float64"]
    trained: tuple[str, ...]
    training: dict[str, Any]
    reading: dict[str, Any]

    def places(self) -> list[Place]:
        """All slices, shard by shard."""
        return [Place(shard, number) for shard in range(1, self.shards + 1) for number in range(1, self.slices + 1)]


@dataclass(frozen=True)
class Records:
    """The folder of an ensemble, and what has changed since it was read. Nothing in it is ever changed in place.

    Attributes:
        folder: Where everything lies that has not changed.
        settings: How the ensemble was trained.
        texts: The texts of the slices that have changed.
        checkpoints: The weights after these slices, on the CPU; after the last slice of a shard they are those of the ensemble.
    """

    folder: Path
    settings: SisaSettings
    texts: Mapping[Place, Sequence[Text]] = field(default_factory=dict)
    checkpoints: Mapping[Place, Vector] = field(default_factory=dict)

    def __deepcopy__(self, memo: Any) -> Records:
        return self

    def hashes(self, place: Place) -> list[str]:
        """The hashes of the texts of a slice, in order."""
        if place in self.texts:
            return [text_hash(text) for text in self.texts[place]]
        return read_hashes(self.existing(_texts(place)))

    def slice(self, place: Place) -> list[Text]:
        """The texts of a slice, in order."""
        return list(self.texts[place]) if place in self.texts else read_texts(self.existing(_texts(place)))

    def checkpoint(self, place: Place) -> Vector:
        """The trained parameters after a slice, on the CPU."""
        from safetensors.torch import load_file

        return self.checkpoints[place] if place in self.checkpoints else load_file(self.existing(_model(place)))

    def changed(self, texts: Mapping[Place, Sequence[Text]], checkpoints: Mapping[Place, Vector]) -> Records:
        """These records with other slices and other weights after them."""
        return replace(self, texts={**self.texts, **texts}, checkpoints={**self.checkpoints, **checkpoints})

    def existing(self, name: str) -> Path:
        """A file or folder of the ensemble's folder.

        Raises:
            InputError: It is not there any more.
        """
        if not (self.folder / name).exists():
            raise InputError(
                f"{self.folder / name} is missing, which belongs to the SISA ensemble that was loaded from this folder; put the folder "
                "back where it was, or load the ensemble from where it is now"
            )
        return self.folder / name

    def write(self, folder: Path, weights: Sequence[Vector]) -> None:
        """Write a whole folder of an ensemble: what has not changed is copied, so that the two folders share no file.

        Args:
            folder: Another than the ensemble's own.
            weights: The trained parameters of every shard.

        Raises:
            InputError: The folder is the ensemble's own, or something of that is missing.
            OSError: It cannot be written.
        """
        if folder.resolve() == self.folder.resolve():
            raise InputError(f"the ensemble was loaded from {folder}, whose files it still needs; save it in another folder")
        shutil.copytree(self.existing(BASE), folder / BASE, copy_function=shutil.copyfile, dirs_exist_ok=True)
        for place in self.settings.places():
            (folder / _texts(place)).parent.mkdir(exist_ok=True)
            if place in self.texts:
                write_texts(folder / _texts(place), self.texts[place])
            else:
                shutil.copyfile(self.existing(_texts(place)), folder / _texts(place))
            if place.slice == self.settings.slices:
                write_checkpoint(folder, place, weights[place.shard - 1])
            elif place in self.checkpoints:
                write_checkpoint(folder, place, self.checkpoints[place])
            else:
                shutil.copyfile(self.existing(_model(place)), folder / _model(place))
        write_form(folder, FORM, self.settings.model_dump())


def trained(model: Any, settings: SisaSettings) -> Vector:
    """The parameters of a shard that were trained."""
    params = dict(model.named_parameters())
    return {name: params[name] for name in settings.trained}


def only_trained(model: Any, settings: SisaSettings) -> Any:
    """Let these parameters require a gradient, and no others."""
    names = set(settings.trained)
    for name, p in model.named_parameters():
        p.requires_grad_(name in names)
    return model


@torch.no_grad()
def put(model: Any, weights: Vector) -> Any:
    """Give a shard these weights."""
    params = dict(model.named_parameters())
    for name, tensor in weights.items():
        params[name].copy_(tensor)
    return model


def write_checkpoint(folder: Path, place: Place, weights: Vector) -> None:
    """Write the trained parameters after a slice."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, folder / _model(place))


def write_slice(folder: Path, place: Place, texts: Sequence[Text]) -> None:
    """Write the texts of a slice into the folder of an ensemble."""
    (folder / _texts(place)).parent.mkdir(exist_ok=True)
    write_texts(folder / _texts(place), texts)


def _texts(place: Place) -> str:
    return f"shard-{place.shard}/texts-{place.slice}.safetensors"


def _model(place: Place) -> str:
    return f"shard-{place.shard}/model-{place.slice}.safetensors"
