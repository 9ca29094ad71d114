"""Load and save causal language models: hub names, local folders, and the models of this repository (`nano/`, `gpu/`)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unlearn_lib.errors import HubUnavailableError, InputError, unknown
from unlearn_lib.files import as_os_error, by_umask, in_utf8, shown
from unlearn_lib.hub import hub_reachable
from unlearn_lib.models import gpu, nano
from unlearn_lib.models.adapters import WEIGHTS, adapter_settings, is_adapter, load_adapter
from unlearn_lib.models.forms import FILE as FORM
from unlearn_lib.models.forms import form_of, is_form, load_form
from unlearn_lib.models.gguf_files import SUFFIX, gguf_file, load_gguf
from unlearn_lib.models.hub_cache import in_cache, weights_folder, weights_revision
from unlearn_lib.models.suited import check_causal, check_config, check_generation, check_tokenizer, read_generation, refused
from unlearn_lib.models.weights import (
    FORMATS,
    check_complete,
    check_fetched,
    check_size,
    main_format,
    plain_name,
    stored_tensors,
    unwrapped,
)
from unlearn_lib.ranks import found_device

RECIPES = {"nano": nano.RECIPE, "gpu": gpu.RECIPE}
"""The sets of models that this repository trains, by the first part of their names."""
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
CONFIGS = ("config.json", "adapter_config.json", FORM)


@dataclass(frozen=True)
class Place:
    """Where a model is: `model` and `tokenizer` are folders or a name on the hub, `local` says which, or both a GGUF file; `said` begins
    an error."""

    name: str
    model: str
    tokenizer: str
    local: bool
    said: str

    @property
    def quantised(self) -> bool:
        """Whether it is a GGUF file, whose weights are dequantised."""
        return self.model.lower().endswith(SUFFIX)


def resolve_device(device: str) -> torch.device:
    """`"auto"` is CUDA when there is one, else the CPU; anything else is passed to torch.

    Raises:
        InputError: CUDA was asked for on a machine without it.
    """
    if device == "auto":
        return found_device(device)
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' was asked for, but torch sees no CUDA device here; use device='auto' or 'cpu'")
    return chosen


def find(name_or_path: str | Path) -> Place:
    """Where the model of this name is, by the rules of `load_model`.

    Raises:
        InputError: An unknown or ambiguous name, a folder without a model, a name that is not UTF-8.
    """
    name = str(name_or_path)
    folder = Path(name)
    if not in_utf8(name):
        raise InputError(
            f"the model's folder {shown(name)} has a name that is not UTF-8 here, and transformers takes no other; rename it, or set "
            "PYTHONUTF8=1 if only the locale is not"
        )
    kind = name.partition("/")[0]
    recipe = RECIPES.get(kind)
    mine = any((folder / file).is_file() for file in CONFIGS)
    if recipe is not None and name in recipe.specs:
        if mine and folder.resolve() != recipe.model_folder(name).resolve():
            raise InputError(
                f"{name} is both a folder here and the name of a model of this library; write ./{name} for the folder, or call from "
                "another directory for the library's"
            )
        model, tokenizer = recipe.place(name)
        return Place(name, str(model), str(tokenizer), True, f"the model in {model} cannot be loaded")
    if recipe is not None and not mine:
        recipe.place(name)  # says which names there are
    if not mine and (gguf := gguf_file(folder)) is not None:
        return Place(name, str(gguf), str(gguf), True, f"the model in {gguf} cannot be loaded")
    if folder.is_dir():
        if not mine:
            raise InputError(
                f"the folder {name} holds no config.json (or adapter_config.json), so it is not a saved transformers model"
            )
        return Place(name, name, name, True, f"the model in {name} cannot be loaded")
    if folder.exists() or name.count("/") > 1 or name.startswith((".", "~")):
        raise InputError(f"there is no model folder {name}; embedded models are: {', '.join(nano.SPECS)}")
    return Place(name, name, name, False, f"model {name!r} cannot be loaded from the hub or its cache")


def load_model(
    name_or_path: str | Path, *, device: str = "auto", dtype: str = "float32", revision: str | None = None
) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer, ready for curvature: eager attention, evaluation mode.

    Args:
        name_or_path: An embedded model (`nano/neo-s|m|l`, `nano/opt-s|m|l`), one that was trained on this machine (`gpu/...`), a
            local folder in the Hugging Face layout, a GGUF file or a folder with one, or a name on the hub. A folder with a peft
            adapter is loaded on its base, and only the adapter is trainable; the tokenizer is the adapter's own where it has one.
            The weights of a GGUF file are dequantised. A folder of a form (see `unlearn_lib.models.forms`) gives the model that a
            method left behind which changes more than weights.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"`, ...
        dtype: `"float32"` (default), `"float64"` or `"bfloat16"`.
        revision: Branch, tag or commit on the hub.

    Returns:
        `(model, tokenizer)`, a plain transformers model in evaluation mode and its fast tokenizer.

    Raises:
        InputError: Unknown model, dtype or device; a model that was not trained yet; a folder without a model; one whose files are
            damaged, or do not hold exactly the weights of its configuration; no causal language model; quantised weights; a
            tokenizer that does not fit; settings for generation that could not be saved again.
        HubUnavailableError: A hub name, no network, and nothing in the local cache. Raised within about a second.

    Only safetensors are read (no pickle), and code from the hub is never run. What torch.compile, DataParallel and FSDP add to the
    names of weights is taken off.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    chosen = resolve_device(device)
    place = find(name_or_path)
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": place.local}
    if not place.local:
        offline = not hub_reachable()
        if offline and in_cache(place.name, revision=revision) is None:  # said before the slow import of transformers
            raise HubUnavailableError(
                f"model {place.name!r} is no folder here, the Hugging Face hub cannot be reached, and the local cache does not hold it; "
                f"connect once, give a folder, or use an embedded model: {', '.join(nano.SPECS)}"
            )
        # "main" by name: for None transformers would not look for converted weights
        options |= {"revision": revision or "main", "local_files_only": offline}
    if place.local and is_form(place.model):
        with refused(place.said):
            model, tokenizer = load_form(place.model, lambda name: load_model(name, device=str(chosen), dtype=dtype))
            check_causal(model)
    elif place.local and is_adapter(place.model):

        def of_base(base: str) -> tuple[Any, Any]:
            return load_model(base, device=str(chosen), dtype=dtype)

        folder = Path(place.model)
        model, tokenizer = load_adapter(folder, of_base, adapter_base(folder), lambda path: load_tokenizer(path, options))
    elif place.quantised:
        with refused(place.said):
            model, tokenizer = load_gguf(Path(place.model), DTYPES[dtype])
            check_causal(model.to(chosen).eval())
    else:
        check_files(place, options)
        with refused(place.said):
            model = _load_weights(place, options, DTYPES[dtype], revision).to(chosen).eval()
            check_causal(model)
            tokenizer = load_tokenizer(place.tokenizer, options)
    with refused(place.said):
        check_tokenizer(model, tokenizer)
        check_generation(model.generation_config)
    return model, tokenizer


def check_files(place: Place, options: dict[str, Any]) -> None:
    """What is refused by a model's configuration and settings alone, without its weights.

    Raises:
        InputError: See `unlearn_lib.models.suited`.
    """
    from transformers import PreTrainedConfig

    if place.local:
        check_fetched(Path(place.model))
    if options["local_files_only"]:
        with refused(f"the configuration of {place.name} cannot be read"):
            raw, _ = PreTrainedConfig.get_config_dict(place.model, **options)
    else:
        try:
            raw, _ = PreTrainedConfig.get_config_dict(place.model, **options)
        except OSError:
            return  # from_pretrained finds out and says why
    check_config(raw, place.name)
    if place.local:
        read_generation(Path(place.model))


def _load_weights(place: Place, options: dict[str, Any], dtype: torch.dtype, revision: str | None) -> Any:
    from transformers import AutoModelForCausalLM

    how: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": "eager",
        "use_safetensors": True,
        # what does not match is refused below, with the names
        "ignore_mismatched_sizes": True,
        "output_loading_info": True,
        **options,
    }
    if dtype == torch.float64:  # the default, one grouped product for all experts, has no float64
        how["experts_implementation"] = "eager"
    if place.local:
        stored = stored_tensors(Path(place.model))
        shape = check_size(place.model, stored)
        plain = unwrapped(Path(place.model), stored)
        if plain is None:
            model, info = AutoModelForCausalLM.from_pretrained(place.model, **how)
        else:
            model, info = type(shape).from_pretrained(None, config=shape.config, state_dict=plain, **how)
            model.name_or_path = place.model
            model.generation_config = read_generation(Path(place.model)) or model.generation_config
    else:
        if options["local_files_only"]:
            how |= _with_converted_weights(place.name, revision, options)
        model, info = AutoModelForCausalLM.from_pretrained(place.model, **how)
        folder = weights_folder(place.name, revision)
        stored = {} if folder is None else stored_tensors(folder)
    check_complete(model, info, stored)
    return model


def load_tokenizer(name: str, options: dict[str, Any]) -> Any:
    """A tokenizer from a folder or the hub.

    Raises:
        InputError: There is none, its files are damaged, or it needs code of its own.
    """
    from transformers import AutoTokenizer

    remedy = "; copy the tokenizer's files (tokenizer.json, tokenizer_config.json) of the model that it was trained from into its folder"
    with refused("its tokenizer cannot be loaded", remedy):
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, **options)
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            raise ValueError("it needs code of its own, which is never run") from error
    # where its files are missing, some are made with an empty vocabulary, and give no token for any text
    if not tokenizer("a text", add_special_tokens=False)["input_ids"]:
        raise InputError(f"its tokenizer cannot be loaded: there are no files of one{remedy}")
    return tokenizer


def _with_converted_weights(name: str, revision: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """The options that load a model from the hub's cache, where its weights may lie in a revision that holds nothing else."""
    found = weights_revision(name, revision)
    if found is None or found == options["revision"]:
        return options
    from transformers import AutoConfig, GenerationConfig

    config = AutoConfig.from_pretrained(name, **options)
    try:
        generation = GenerationConfig.from_pretrained(name, **options)
    except OSError:
        generation = GenerationConfig.from_model_config(config)
    return {**options, "revision": found, "config": config, "generation_config": generation}


def adapter_base(folder: Path) -> str:
    """The name or folder of the model that a peft adapter is for.

    Raises:
        InputError: peft is not installed; the adapter does not say, or cannot be used, see `adapter_settings`.
    """
    return own_name(str(adapter_settings(folder)["base_model_name_or_path"]))


def own_name(place: str) -> str:
    """The name of a model of this library whose folder this is, which lies elsewhere on another machine; else what was given."""
    own = (name for recipe in RECIPES.values() for name in recipe.specs if Path(place) == recipe.model_folder(name))
    return next(own, place)


def stored_formats(name_or_path: str | Path) -> dict[str, torch.dtype]:
    """The number formats that the weights of a model have in its files, by name, and the main one under the name "".

    Empty where the files are not on this machine, of a GGUF file, and of a form. Of an adapter: its own weights.
    """
    place = find(name_or_path)
    if place.quantised or (place.local and is_form(place.model)):
        return {}
    folder = Path(place.model) if place.local else weights_folder(place.name)
    if folder is None or is_form(folder):  # the weights of a form have other names than those of its model
        return {}
    stored = stored_tensors(folder, WEIGHTS) if is_adapter(folder) else stored_tensors(folder)
    known = {plain_name(name): FORMATS[tensor.format] for name, tensor in stored.items() if tensor.format in FORMATS}
    return {**known, "": main_format(stored)}


def save_model(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """Write model (safetensors) and tokenizer so that `AutoModelForCausalLM.from_pretrained(folder)` loads them; of a peft model
    the adapter alone, and of a form (see `unlearn_lib.models.forms`) what it consists of, which `load_model` loads. The files are
    readable as the umask says.

    Raises:
        OSError: They cannot be written (a full disk, ...).
    """
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    try:
        with by_umask(path), warnings.catch_warnings():
            # peft says when it writes the embedding, too; that it does is right
            warnings.filterwarnings("ignore", message="Setting `save_embedding_layers`")
            model.save_pretrained(path)
            if not form_of(model):
                (path / FORM).unlink(missing_ok=True)  # of another model that was here before
            for place in _with_parts(path):
                tokenizer.save_pretrained(place)
    except Exception as error:
        plain = as_os_error(error)
        if plain is None or plain is error:
            raise
        raise plain from error


def _with_parts(folder: Path) -> list[Path]:
    """A folder, and of that of a form the folders of the models that it holds, each of which needs the tokenizer, too."""
    inside = {path.parent for config in CONFIGS for path in folder.rglob(config)} if is_form(folder) else set()
    return [folder, *sorted(inside - {folder})]
