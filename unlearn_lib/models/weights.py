"""A checkpoint's files, looked at before anything is loaded: whether they are whole, what they hold, in which number format.

Only the headers of safetensors are read. A pickle is never opened.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unlearn_lib.errors import InputError

LFS = b"version https://git-lfs"
WEIGHTS = "model.safetensors"
FORMATS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
"""Number formats of weights by their names in safetensors."""
WRAPPERS = re.compile(r"^(module\.)+|(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""What DataParallel, torch.compile, FSDP and activation checkpointing add to the names of weights."""
DERIVED = re.compile(
    r"(^|\.)(rotary_emb\.(inv_freq|cos_cached|sin_cached)|masked_bias|position_ids|embed_positions\.(weights|_float_tensor)|version)$"
)
"""Buffers that older versions of transformers saved, and that follow from the configuration."""
SLACK = 10_000_000
CAUSAL_MASK = re.compile(r"(^|\.)attn(\.attention)?\.bias$|(^|\.)attention\.bias$")


@dataclass(frozen=True)
class Stored:
    """One tensor of a file: its shape, and its number format by its name in safetensors."""

    shape: tuple[int, ...]
    format: str

    @property
    def numel(self) -> int:
        """How many numbers it has."""
        return torch.Size(self.shape).numel()


def stored_tensors(folder: Path, file: str = WEIGHTS) -> dict[str, Stored]:
    """All tensors of a checkpoint by name, from the headers of its safetensors.

    Args:
        folder: Where `file` lies, or its index and the files that this names.
        file: The name of the file.

    Raises:
        InputError: No safetensors (a pickle is not read); a file that is missing, cut, or a pointer of git-LFS; an index that names
            files outside of the folder; numbers of a quantised format.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Stored] = {}
    for path in weight_files(folder, file):
        try:
            with safe_open(path, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118 (no mapping)
                    part = opened.get_slice(name)
                    tensors[name] = Stored(tuple(part.get_shape()), part.get_dtype())
        except SafetensorError as error:
            raise InputError(f"{path.name} is damaged or cut short ({error}); copy or download the file again") from error
    packed = [
        name
        for name, tensor in tensors.items()
        if len(tensor.shape) == 2 and tensor.format.startswith(("F8", "F4", "F6_", "I8", "U8", "I4"))  # F64 is plain
    ]
    if packed:
        raise InputError(
            f"the weights are quantised ({packed[0]} is in {tensors[packed[0]].format}), and curvature needs the plain ones; give the "
            "checkpoint from before it was quantised"
        )
    return tensors


def check_fetched(folder: Path) -> None:
    """Refuse a folder in which git-LFS has left pointers in place of files.

    Raises:
        InputError: It names the first.
    """
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with path.open("rb") as file:
            if file.read(len(LFS)) == LFS:
                raise InputError(
                    f"{path} is only a pointer of git-LFS; fetch the file itself with `git lfs pull` in its folder"
                )


def weight_files(folder: Path, file: str = WEIGHTS) -> list[Path]:
    """The safetensors of a checkpoint: the one file, or those that its index names.

    Raises:
        InputError: There are none, or they are not all there.
    """
    single, index = folder / file, folder / f"{file}.index.json"
    if single.is_file():
        return [single]
    if not index.is_file():
        pickles = [path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in sorted(folder.glob(pattern))]
        if pickles:
            raise InputError(
                f"there is no {file}, only {pickles[0]}, a pickle, which could run any code and is never read; load it where you "
                "trust it and write it again with model.save_pretrained (safetensors)"
            )
        raise InputError(f"there is no {file}; give a folder that model.save_pretrained has written")
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index.name} is no index of safetensors; copy or download the file again") from error
    for name in sorted(names, key=str):
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"{index.name} names {name!r}, which is no safetensors file of this folder; it is not read")
        if not (folder / name).is_file():
            raise InputError(f"{name} is missing, which {index.name} names; copy or download that file again")
    return [folder / name for name in sorted(names)]


def unwrapped(folder: Path, stored: Mapping[str, Stored]) -> dict[str, torch.Tensor] | None:
    """The weights of a checkpoint that was saved from inside a wrapper, under their plain names; None where it was not."""
    if all(plain_name(name) == name for name in stored):
        return None
    from safetensors.torch import load_file

    return {plain_name(name): tensor for path in weight_files(folder, WEIGHTS) for name, tensor in load_file(path).items()}


def plain_name(name: str) -> str:
    """A stored name without what wrappers have added to it."""
    return re.sub(r"^(module\.)+", "", WRAPPERS.sub("", name))


def check_size(folder: str, stored: Mapping[str, Stored]) -> Any:
    """Refuse a configuration of a model that is far larger than what is stored, before its missing weights fill the memory.

    Returns:
        The model without contents.

    Raises:
        InputError: The model is far larger.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    described, there = sum(p.numel() for p in model.parameters()), sum(tensor.numel for tensor in stored.values())
    if described > SLACK + 4 * there:
        raise InputError(
            f"config.json describes a model of {described:,} weights, and the files hold {there:,} numbers; they are not of the same model"
        )
    return model


def check_complete(model: Any, info: Mapping[str, Any], stored: Mapping[str, Stored]) -> None:
    """Refuse a model some of whose weights did not come from its files, or whose files hold more than it has.

    Args:
        model: As loaded.
        info: What `from_pretrained(..., output_loading_info=True)` says.
        stored: The tensors of the files, see `stored_tensors`.

    Raises:
        InputError: The message names weights, and the likely reason.
    """
    derived = {name for name in (*info["missing_keys"], *info["unexpected_keys"]) if _derived(name, stored)}
    missing, unexpected = sorted(set(info["missing_keys"]) - derived), sorted(set(info["unexpected_keys"]) - derived)
    for name, found, wanted in sorted(info["mismatched_keys"]):
        if found[1:] == wanted[1:] and model.get_parameter(name).shape == model.get_input_embeddings().weight.shape:
            raise InputError(
                f'the configuration says a vocabulary of {wanted[0]}, and the stored {name} has {found[0]} rows; put "vocab_size": '
                f"{found[0]} into config.json, or give the weights that belong to it"
            )
        raise InputError(
            f"the configuration asks for {name} of shape {list(wanted)}, and the stored one is {list(found)}; config.json and weights are "
            "not of the same model"
        )
    if not missing and not unexpected:
        return
    said = []
    if missing:
        said.append(f"{len(missing)} of its weights are not in the files ({_some(missing)}) and would be random numbers")
    if unexpected:
        said.append(f"{len(unexpected)} tensors in the files have no place in a {type(model).__name__} ({_some(unexpected)})")
    raise InputError("; ".join(said) + f"; {_reason(missing, unexpected)}")


def _derived(name: str, stored: Mapping[str, Stored]) -> bool:
    if CAUSAL_MASK.search(name):
        # GPT-2 and GPT-Neo once saved their causal masks under names that are biases elsewhere
        shape = stored[name].shape if name in stored else ()
        return len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3]
    return DERIVED.search(name) is not None


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _reason(missing: list[str], unexpected: list[str]) -> str:
    prefixes = {name[: -len(missing[0])] for name in unexpected if missing and name.endswith(f".{missing[0]}")}
    if any(all(name.startswith(prefix) for name in unexpected) for prefix in prefixes):
        return f"every name begins with '{min(prefixes, key=len)}', as a wrapper writes it: save the model inside with its save_pretrained"
    if any(
        re.match(r"(score|classifier|classification_head|qa_outputs|v_head|multiple_choice_head)\.", name)
        for name in unexpected
    ):
        return "the files hold a model with another head (a classifier, reward or value model): give the language model itself"
    return "the files are of another model or not all of it: save it again with model.save_pretrained"


def main_format(stored: Mapping[str, Stored]) -> torch.dtype:
    """The number format that most of the stored numbers have; float32 where nothing is stored."""
    counts: dict[str, int] = {}
    for tensor in stored.values():
        counts[tensor.format] = counts.get(tensor.format, 0) + tensor.numel
    return (
        max(((counts.get(name, 0), dtype) for name, dtype in FORMATS.items()), key=lambda pair: pair[0])[1]
        if counts
        else torch.float32
    )


def same_numbers(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors on one device have the same shape and numbers, in whatever formats."""
    wide = torch.promote_types(one.dtype, other.dtype)
    return torch.equal(one.to(wide), other.to(wide))
