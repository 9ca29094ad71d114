"""A model with unlearning layers, and its saved form "eul": the layers alone, and the name of the model that they were put in.

The folder holds `unlearning_layers.safetensors` and `unlearn_form.json`, which names the base and says what the layers of every
stage are like. The base is named where it lies under its name with the very same weights, and written into the folder, as `base/`,
where it does not: because it was trained or rounded after it was loaded, or was never saved. Layers have a nonlinearity inside, so
they cannot be folded into the weights, and the loaded model has them as modules.
"""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.errors import HubUnavailableError, InputError
from unlearn_lib.models.adapters import own_tokenizer
from unlearn_lib.models.bottlenecks import Shape, insert, is_part, remove
from unlearn_lib.models.forms import LoadModel, named, relative, write_form
from unlearn_lib.models.suited import refused
from unlearn_lib.models.weights import same_numbers

FORM = "eul"
WEIGHTS = "unlearning_layers.safetensors"
BASE = "base"


class WithUnlearningLayers:
    """What the class of a model gains with its first stage of layers: it saves the form. All else is the class it was."""

    form = FORM

    stages: tuple[Shape, ...]

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Write the folder of the form.

        The base is loaded once, to compare; where it has to be written, a copy is made of the model. Other arguments of transformers'
        `save_pretrained` have no use here and are left alone.

        Raises:
            OSError: It cannot be written.
        """
        from safetensors.torch import save_file

        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        name = _base_name(self)
        if name is None or Path(name).resolve() == folder.resolve():  # which the form's file would take from its model
            name = str(folder / BASE)
            without_layers(self).save_pretrained(name)
        if Path(name).is_dir():
            name = relative(folder, Path(name).resolve())
        save_file({key: tensor.cpu().contiguous() for key, tensor in layer_weights(self).items()}, folder / WEIGHTS)
        write_form(folder, FORM, {"base": name, "stages": [stage.model_dump() for stage in self.stages]})


def add_stage(model: Any, shape: Shape) -> None:
    """Give a model one more stage of unlearning layers, in place; with the first it becomes a `WithUnlearningLayers`.

    Raises:
        InputError: See `insert`.
    """
    insert(model, shape)
    if not isinstance(model, WithUnlearningLayers):
        plain: Any = type(model)
        model.__class__ = _with_layers(plain)
        model.stages = ()
    model.stages = (*model.stages, shape)


def without_layers(model: Any) -> Any:
    """A copy of a model as it was before its first stage of layers. Memory: a copy of the model."""
    plain = copy.deepcopy(model)
    remove(plain)
    plain.__class__ = type(model).__bases__[1]
    del plain.stages
    return plain


def layer_weights(model: Any) -> dict[str, Tensor]:
    """The weights of all layers of all stages, by name."""
    return {name: tensor.detach() for name, tensor in model.state_dict().items() if is_part(name)}


def base_weights(model: Any) -> dict[str, Tensor]:
    """The weights and saved buffers of the model that the layers were put in, by name."""
    return {name: tensor.detach() for name, tensor in model.state_dict().items() if not is_part(name)}


def same_weights(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two models have the same weights to the last digit, in whatever formats."""
    return one.keys() == other.keys() and all(same_numbers(tensor.cpu(), other[name].cpu()) for name, tensor in one.items())


def load(folder: Path, settings: dict[str, Any], load_model: LoadModel) -> tuple[Any, Any]:
    """`(model, tokenizer)` of the folder of this form; the layers are in the number format of the base as it was loaded.

    Raises:
        InputError: A setting that is missing or out of range; a base that cannot be loaded; layers that do not belong to it.
        HubUnavailableError: The base is a name on the hub, and neither there nor in the cache.
    """
    from unlearn_lib.models.load import load_tokenizer

    said = f"the model in {folder} cannot be loaded"
    with refused(f"{said}: unlearn_form.json does not describe unlearning layers"):
        base, stages = str(settings["base"]), [Shape.model_validate(stage) for stage in settings["stages"]]
    try:
        model, of_base = load_model(named(folder, base))
    except (InputError, HubUnavailableError) as error:
        raise type(error)(
            f"the unlearning layers in {folder} are for the model {base}, which cannot be loaded: {error.args[0]}"
        ) from error
    for shape in stages:
        add_stage(model, shape)
    with refused(said):
        _fill(model, folder)
    options = {"local_files_only": True, "trust_remote_code": False}
    return model.eval(), own_tokenizer(folder, of_base, lambda path: load_tokenizer(path, options))


def _fill(model: Any, folder: Path) -> None:
    """Give the layers of a model the weights that are in a folder."""
    from safetensors.torch import load_file

    stored = load_file(folder / WEIGHTS)
    wanted = {name: p for name, p in model.named_parameters() if is_part(name)}
    if wrong := sorted(
        name for name in wanted.keys() | stored.keys()
        if name not in wanted or name not in stored or wanted[name].shape != stored[name].shape
    ):  # fmt: skip
        raise InputError(
            f"{len(wrong)} of the layers' weights are missing, of another shape, or have no place in the base ({', '.join(wrong[:3])}); "
            "the layers are for another base, or not all of them were saved: save them again with save_model"
        )
    for name, p in wanted.items():
        p.data = stored[name].to(p.device, model.dtype, copy=True)  # the file may be written again while the model is there


def _base_name(model: Any) -> str | None:
    """The name under which `load_model` finds the base with the same weights; None where there is none."""
    from unlearn_lib.models.load import load_model, own_name

    name = own_name(getattr(model, "name_or_path", "") or "")
    if not name:
        return None
    try:  # no narrower than it may be loaded again: a base that was rounded is another one
        found, _ = load_model(name, device="cpu", dtype="float64" if model.dtype == torch.float64 else "float32")
    except (InputError, HubUnavailableError):
        return None
    return name if same_weights(base_weights(model), base_weights(found)) else None


@cache
def _with_layers(plain: Any) -> Any:
    """The class of a model of this class with layers."""
    return type(f"{plain.__name__}WithUnlearningLayers", (WithUnlearningLayers, plain), {"__module__": __name__})
