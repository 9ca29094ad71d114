"""peft adapters in a folder: on their base, whose embedding is enlarged first where the adapter's is larger."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from unlearn_lib.data.rows import shown
from unlearn_lib.errors import HubUnavailableError, InputError
from unlearn_lib.models.suited import refused
from unlearn_lib.models.weights import Stored, check_fetched, stored_tensors

WEIGHTS = "adapter_model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
RUNS_CODE = ("megatron_config", "prompt_tuning_init_state_dict_path")
"""Settings of peft that import a module by its name, or read a pickle."""


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder holds a peft adapter."""
    return (Path(folder) / "adapter_config.json").is_file()


def adapter_settings(folder: Path) -> dict[str, Any]:
    """An adapter's configuration, checked.

    Raises:
        InputError: peft is not installed; no JSON object; an adapter that does not say which model it is for, is on another adapter,
            is for something else than a causal language model, or would run code.
    """
    if find_spec("peft") is None:
        raise InputError(f"{folder} holds a peft adapter, and peft is not installed: pip install 'unlearn_lib[lora]'")
    check_fetched(folder)
    with refused(f"the adapter in {folder} cannot be loaded: adapter_config.json cannot be read"):
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if not isinstance(settings, dict):
        raise InputError(f"the adapter in {folder} cannot be loaded: adapter_config.json is not a JSON object")
    base = settings.get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise InputError(f"the adapter in {folder} does not say which model it is for (base_model_name_or_path)")
    if is_adapter(base):
        raise InputError(
            f"the adapter in {folder} is for {base}, which is an adapter itself; merge that one into its base first (merge_and_unload)"
        )
    if settings.get("task_type") not in (None, "CAUSAL_LM"):
        raise InputError(
            f"the adapter in {folder} is not for a causal language model, but for the task {shown(settings['task_type'])}"
        )
    for key in RUNS_CODE:
        if settings.get(key):
            raise InputError(f"the adapter in {folder} has {key} set, which runs code or reads a pickle; this is never done")
    return settings


def put_on(base: Any, folder: Path) -> Any:
    """The adapter of a folder on its base, only the adapter trainable. The base is changed.

    Raises:
        InputError: An adapter with missing or unknown weights, or with a larger embedding of which it holds only a part.
    """
    from peft import PeftModel

    # peft and transformers draw first values, all of which the adapter's own replace
    with refused(f"the adapter in {folder} cannot be loaded"), torch.random.fork_rng():
        stored = stored_tensors(folder, WEIGHTS)
        _enlarge(base, stored)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # they are refused below
            model = PeftModel.from_pretrained(base, str(folder), is_trainable=True, local_files_only=True)
            # once more, because only this call says what did not fit
            result = model.load_adapter(str(folder), "default", is_trainable=True, local_files_only=True)
        # peft saves an embedding that is trained as a whole under two names
        unknown = [
            name
            for name in result.unexpected_keys
            if ".modules_to_save" not in name or name.replace(".modules_to_save", "") not in stored
        ]
        every = dict(model.named_parameters(remove_duplicate=False))
        filled = {id(p) for name, p in every.items() if name not in result.missing_keys}
        # what all layers share is stored once
        missing = [name for name in result.missing_keys if name not in every or id(every[name]) not in filled]
        for names, what in (
            (missing, "of its weights are not in the file and would be those of an untrained adapter"),
            (unknown, "tensors of the file have no place in it"),
        ):
            if names:
                raise InputError(
                    f"{len(names)} {what} ({', '.join(sorted(names)[:3])}); it was saved under other names, for another base, or not all "
                    "of it: save it again with save_pretrained"
                )
    return model.eval()


def _enlarge(base: Any, stored: Mapping[str, Stored]) -> None:
    """Give the base as many embedding rows as the adapter holds, which then fills them."""
    saved = _saved_rows(base, stored)
    rows = base.get_input_embeddings().weight.shape[0]
    if not saved or set(saved.values()) == {rows}:
        return
    tied = base.get_output_embeddings() is None or base.get_output_embeddings().weight is base.get_input_embeddings().weight
    if len(set(saved.values())) > 1 or (len(saved) == 1 and not tied):
        raise InputError(
            f"it was trained with {max(saved.values())} tokens, its base has {rows}, and it does not hold both the input and the output "
            "embedding for them; merge it where you have both (merge_and_unload) and save the whole model"
        )
    base.resize_token_embeddings(next(iter(saved.values())), mean_resizing=False)


def _saved_rows(base: Any, stored: Mapping[str, Stored]) -> dict[str, int]:
    """How many rows an adapter holds of whole embeddings, by the embedding's name in the base."""
    found = {}
    for module in (base.get_input_embeddings(), base.get_output_embeddings()):
        for name in (name for name, own in base.named_modules() if own is module and module is not None):
            for key, tensor in stored.items():
                if (
                    f".{name}." in key
                    and key.endswith(".weight")
                    and len(tensor.shape) == 2
                    and tensor.shape[1] == module.weight.shape[1]
                ):
                    found[name] = tensor.shape[0]
    return found


def own_tokenizer(folder: Path, of_base: Any, load: Callable[[str], Any]) -> Any:
    """The tokenizer that was saved with an adapter, or its base's, with the chat template that was."""
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        return load(str(folder))
    template = folder / "chat_template.jinja"
    if of_base is not None and template.is_file():
        of_base.chat_template = template.read_text(encoding="utf-8")
    return of_base


def load_adapter(
    folder: Path, load_base: Callable[[str], tuple[Any, Any]], base: str, load: Callable[[str], Any]
) -> tuple[Any, Any]:
    """`(model, tokenizer)` of an adapter's folder.

    Args:
        folder: With the adapter.
        load_base: Loads the base by its name, with its tokenizer.
        base: The base's name.
        load: Loads a tokenizer from a folder.

    Raises:
        InputError, HubUnavailableError: As `load_model`.
    """
    try:
        model, tokenizer = load_base(base)
    except (InputError, HubUnavailableError) as error:
        raise type(error)(
            f"the adapter in {folder} is for the model {base}, which cannot be loaded: {error.args[0]}"
        ) from error
    return put_on(model, folder), own_tokenizer(folder, tokenizer, load)
