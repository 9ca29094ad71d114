"""Models by their shape: a configuration without the weights. What a plan needs where a model is not on this machine.

The parameters are torch's fake tensors, which have a shape, a number format and a device (the CPU) and no contents: a model of any
size takes no memory, and nothing can be computed with it. (On torch's meta device GPT-Neo's forward pass cannot be differentiated.)
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unlearn_lib.errors import HubUnavailableError, InputError
from unlearn_lib.hub import hub_reachable
from unlearn_lib.models.adapters import is_adapter, load_adapter
from unlearn_lib.models.forms import is_form
from unlearn_lib.models.hub_cache import in_cache, weights_revision
from unlearn_lib.models.load import DTYPES, RECIPES, adapter_base, check_files, find, load_model, load_tokenizer
from unlearn_lib.models.published import PUBLISHED, published_config
from unlearn_lib.models.suited import check_tokenizer, refused


@dataclass
class ForPlan:
    """What a plan is made from. `tokenizer` is None where there is none at hand; `notes` are sentences for the user;
    `weights` says whether the model has any."""

    model: Any
    tokenizer: Any
    notes: list[str] = field(default_factory=list)
    weights: bool = False


def load_for_plan(name: str, device: str = "auto") -> ForPlan:
    """The model itself where its weights are on this machine, else its shape.

    Args:
        name: As of `load_model`.
        device: As of `load_model`; a shape is nowhere, and its plan is that of a CPU.

    Raises:
        InputError: As `load_model`; a configuration that transformers does not know.
        HubUnavailableError: No folder, no network, no configuration in the cache, and none of the paper's six models.
    """
    find(name)  # refuses what is no name of a model
    if weights_are_here(name):
        return ForPlan(*load_model(name, device=device), weights=True)
    return load_shape(name)


def weights_are_here(name: str) -> bool:
    """Whether the weights are on this machine, in a folder or in the hub's cache. The network is not asked.

    True also for what is no model at all: `load_model` has the error for it.
    """
    folder = Path(name)
    if is_form(folder):
        return True
    if is_adapter(folder):
        return weights_are_here(adapter_base(folder))
    if (folder / "config.json").is_file():
        return any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "pytorch_model*"))
    local = name.partition("/")[0] in RECIPES or name.startswith((".", "~")) or name.count("/") > 1
    return folder.exists() or local or weights_revision(name) is not None


def load_shape(name: str) -> ForPlan:
    """A model without contents, from its configuration: of a folder, of the hub's cache, of the hub, or of the table of the
    paper's six models, in this order; an adapter on the shape of its base. In float32, as `load_model` would load it.

    Raises:
        InputError, HubUnavailableError: As `load_for_plan`.
    """
    folder = Path(name)
    if is_adapter(folder):
        notes: list[str] = []

        def of_base(base: str) -> tuple[Any, Any]:
            found = load_shape(base)
            notes.extend(found.notes)
            return found.model, found.tokenizer

        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        model, tokenizer = load_adapter(folder, of_base, adapter_base(folder), lambda path: load_tokenizer(path, options))
        return _fitting(name, ForPlan(model, tokenizer, notes))
    from torch._subclasses.fake_tensor import FakeTensorMode
    from transformers import AutoModelForCausalLM

    config, tokenizer, notes = _configuration(name)
    with refused(f"the configuration of {name} cannot be used"), FakeTensorMode(allow_non_fake_inputs=True):
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES["float32"], attn_implementation="eager")
    return _fitting(name, ForPlan(model.eval(), tokenizer, notes))


def _fitting(name: str, found: ForPlan) -> ForPlan:
    if found.tokenizer is not None:
        with refused(f"the model {name} cannot be loaded"):
            check_tokenizer(found.model, found.tokenizer)
    return found


def _configuration(name: str) -> tuple[Any, Any, list[str]]:
    """`(configuration, tokenizer or None, notes)`."""
    from transformers import AutoConfig

    folder = Path(name).is_dir()
    published = None if folder else published_config(name)
    offline = folder or not hub_reachable()
    options: dict[str, Any] = {"local_files_only": offline, "trust_remote_code": False}
    if folder or not offline or in_cache(name) is not None:
        try:
            check_files(find(name), options)
            with refused(f"the configuration of {name} cannot be read"):
                return AutoConfig.from_pretrained(name, **options), _tokenizer(name, options), []
        except InputError:
            if published is None:
                raise
    if published is None:
        raise HubUnavailableError(
            f"model {name!r} is no folder here, the Hugging Face hub cannot be reached, and the local cache holds no config.json "
            f"of it; connect once, give a folder with its config.json, or plan for one of: {', '.join(PUBLISHED)}"
        )
    note = f"the shape of {name} is the published one that comes with unlearn_lib, because its config.json is not at hand"
    return published, _tokenizer(name, options), [note]


def _tokenizer(name: str, options: dict[str, Any]) -> Any:
    try:
        return load_tokenizer(name, options)
    except InputError:
        return None
