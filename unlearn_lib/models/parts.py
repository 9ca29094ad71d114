"""The parts of a form that are whole models: named where they are stored, or written into the form's folder.

A model that was trained after it was loaded still has the name that it was loaded by. So a name is only trusted where every number
that is stored under it is the one that the model has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unlearn_lib.errors import InputError
from unlearn_lib.models.adapters import is_adapter
from unlearn_lib.models.forms import is_form, relative
from unlearn_lib.models.hub_cache import weights_folder
from unlearn_lib.models.load import find, own_name
from unlearn_lib.models.weights import plain_name, same_numbers, weight_files


def keep_part(model: Any, folder: str | Path, name: str) -> str:
    """How the file of a form names a part of its model.

    Args:
        model: The part.
        folder: Of the form.
        name: Of a folder inside, where the part is written unless it is stored elsewhere as it is.

    Returns:
        A name for `unlearn_lib.models.forms.named`: that of a model of this library or of the hub, an absolute path, or `./name`.

    Raises:
        OSError: It cannot be written.

    Cost: the stored weights are read once.
    """
    if (stored := _stored_as(model, Path(folder))) is not None:
        return relative(folder, stored) if Path(stored).is_absolute() else stored
    model.save_pretrained(Path(folder) / name)
    return f"./{name}"


def _stored_as(model: Any, form: Path) -> str | None:
    """The name under which exactly this model is stored; None where there is none, or where it is the folder of the form itself."""
    from safetensors import SafetensorError

    try:
        return _found(model, form)
    except (InputError, SafetensorError):  # it was made in memory, or its files are gone or damaged
        return None


def _found(model: Any, form: Path) -> str | None:
    place = find(own_name(str(getattr(model, "name_or_path", None) or "")))
    where = Path(place.model) if place.local else weights_folder(place.name)
    if where is None or where.resolve() == form.resolve() or place.quantised or is_form(where) or is_adapter(where):
        return None
    if not _holds(where, model):
        return None
    return str(where.resolve()) if Path(place.name).is_dir() else place.name


def _holds(folder: Path, model: Any) -> bool:
    """Whether every weight of a model stands in a checkpoint with the same value, and nothing else does. A weight that the model has in
    another number format is the same if no digit was lost. The files are read one tensor at a time."""
    from safetensors import safe_open

    own = dict(model.state_dict())
    found: set[int] = set()
    for path in weight_files(folder):
        with safe_open(path, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (no mapping)
                mine = own.get(plain_name(name))
                if mine is None or not same_numbers(mine.cpu(), opened.get_tensor(name)):
                    return False
                found.add(mine.data_ptr())
    # of weights that are tied, and of embeddings that several layers share, one is stored
    return all(tensor.data_ptr() in found for tensor in own.values())
