"""Load and save causal language models: hub names, local folders, and the models of this repository (`nano/`, `gpu/`)."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from unlearn_lib import gpu, nano
from unlearn_lib.errors import HubUnavailableError, InputError, unknown
from unlearn_lib.hub import hub_reachable, in_cache, weights_revision

RECIPES = {"nano": nano.RECIPE, "gpu": gpu.RECIPE}
"""The sets of models that this repository trains, by the first part of their names."""
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def resolve_device(device: str) -> torch.device:
    """`"auto"` is CUDA when there is one, else the CPU; anything else is passed to torch.

    Raises:
        InputError: CUDA was asked for on a machine without it.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise InputError(f"unknown device {device!r}; use auto, cpu, cuda or cuda:N") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' was asked for, but torch sees no CUDA device here; use device='auto' or 'cpu'")
    return chosen


def load_model(
    name_or_path: str | Path, *, device: str = "auto", dtype: str = "float32", revision: str | None = None
) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer, ready for curvature: eager attention, evaluation mode.

    Args:
        name_or_path: An embedded model (`nano/neo-s|m|l`, `nano/opt-s|m|l`), one that was trained on this machine (`gpu/...`), a
            local folder in the Hugging Face layout, or a name on the hub. A folder with a peft adapter is loaded on its base,
            and only the adapter is trainable.
        device: `"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"`, ...
        dtype: `"float32"` (default), `"float64"` or `"bfloat16"`.
        revision: Branch, tag or commit on the hub.

    Returns:
        `(model, tokenizer)`, a plain transformers model in evaluation mode and its fast tokenizer.

    Raises:
        InputError: Unknown model, dtype or device; a model that was not trained yet; a folder without a model.
        HubUnavailableError: A hub name, no network, and nothing in the local cache. Raised within about a second.

    Only safetensors are read (no pickle), and code from the hub is never run.
    """
    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    chosen = resolve_device(device)
    name = str(name_or_path)
    options: dict[str, Any] = {"trust_remote_code": False}
    model_from: str | Path = name
    tokenizer_from: str | Path = name
    recipe = RECIPES.get(name.partition("/")[0])
    if recipe is not None:
        model_from, tokenizer_from = recipe.place(name)
        options["local_files_only"] = True
    elif Path(name).is_dir():
        if not any((Path(name) / file).is_file() for file in ("config.json", "adapter_config.json")):
            raise InputError(
                f"the folder {name} holds no config.json (or adapter_config.json), so it is not a saved transformers model"
            )
        options["local_files_only"] = True
    elif Path(name).exists() or name.count("/") > 1 or name.startswith((".", "~")):
        raise InputError(f"there is no model folder {name}; embedded models are: {', '.join(nano.SPECS)}")
    else:
        offline = not hub_reachable()
        if offline and in_cache(name, revision=revision) is None:  # said before the slow import of transformers
            raise HubUnavailableError(
                f"model {name!r} is no folder here, the Hugging Face hub cannot be reached, and the local cache does not hold it; "
                f"connect once, give a folder, or use an embedded model: {', '.join(nano.SPECS)}"
            )
        # "main" by name: for None transformers would not look for converted weights
        options |= {"revision": revision or "main", "local_files_only": offline}

    if (Path(name) / "adapter_config.json").is_file():
        return _load_adapter(Path(name), DTYPES[dtype], chosen)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        weights = options
        if options.get("revision") is not None and options["local_files_only"]:
            weights = _with_converted_weights(name, revision, options)
        model = AutoModelForCausalLM.from_pretrained(
            model_from, dtype=DTYPES[dtype], attn_implementation="eager", use_safetensors=True, **weights
        )
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_from, **options)
    except OSError as error:
        if model_from != name or Path(name).is_dir():
            raise InputError(f"the model in {model_from} cannot be loaded: {first_line(error)}") from error
        raise InputError(f"model {name!r} cannot be loaded from the hub or its cache: {first_line(error)}") from error
    return model.to(chosen).eval(), tokenizer


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


def _load_adapter(folder: Path, dtype: torch.dtype, device: torch.device) -> tuple[Any, Any]:
    name = adapter_base(folder)
    from peft import PeftModel

    base, tokenizer = load_model(name, device=str(device), dtype=next(key for key, value in DTYPES.items() if value == dtype))
    return PeftModel.from_pretrained(base, folder, is_trainable=True).eval(), tokenizer


def adapter_base(folder: Path) -> str:
    """The name or folder of the model that a peft adapter is for.

    Raises:
        InputError: peft is not installed; the adapter does not say.
    """
    if find_spec("peft") is None:
        raise InputError(f"{folder} holds a peft adapter, and peft is not installed: pip install 'unlearn_lib[lora]'")
    base_name = json.loads((folder / "adapter_config.json").read_text()).get("base_model_name_or_path")
    if not base_name:
        raise InputError(f"the adapter in {folder} does not say which model it is for (base_model_name_or_path)")
    own = (name for recipe in RECIPES.values() for name in recipe.specs if Path(base_name) == recipe.model_folder(name))
    return next(own, str(base_name))


def save_model(model: Any, tokenizer: Any, folder: str | Path) -> None:
    """Write model (safetensors) and tokenizer so that `AutoModelForCausalLM.from_pretrained(folder)` loads them; of a peft model
    the adapter alone."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def manifest() -> dict[str, Any]:
    """The manifest of the embedded models: `files` (SHA-256 by path) and `models` (size, tokens, losses, cost)."""
    return nano.RECIPE.manifest()


def first_line(error: BaseException) -> str:
    """Of an error's message."""
    return str(error).strip().splitlines()[0]
