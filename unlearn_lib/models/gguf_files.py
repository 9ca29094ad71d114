"""GGUF files: llama.cpp's format of quantised models, turned into plain float32 weights.

Quantised numbers cannot be differentiated; what they stand for can. transformers reads the format, with the package `gguf`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from unlearn_lib.errors import InputError

SUFFIX = ".gguf"
PACKAGES = ("gguf", "accelerate")
DIGITS_APART = ("smollm",)
"""Values of `tokenizer.ggml.pre` whose tokenizers take every digit by itself, which transformers leaves out."""


def gguf_file(path: Path) -> Path | None:
    """The GGUF file that `path` names: itself, or the only one in a folder without a config.json; None where there is none.

    Raises:
        InputError: The folder holds several.
    """
    if path.suffix.lower() == SUFFIX:
        return path if path.is_file() else None
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    found = sorted(file for file in path.iterdir() if file.suffix.lower() == SUFFIX)
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise InputError(f"the folder {path} holds {len(found)} GGUF files ({names}); give the path of one of them")
    return found[0] if found else None


def load_gguf(file: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """`(model, tokenizer)` of a GGUF file: its weights dequantised, in memory, with eager attention.

    Raises:
        InputError: A package is missing, or the file is not whole.
        Exception: What transformers and gguf raise on a file that they cannot read.
    """
    from transformers import AutoModelForCausalLM

    check_packages()
    with _quiet():
        model, info = AutoModelForCausalLM.from_pretrained(
            str(file.parent), gguf_file=file.name, dtype=dtype, attn_implementation="eager", output_loading_info=True
        )
    if missing := sorted(info["missing_keys"]):
        raise InputError(f"{len(missing)} of its weights are not in {file.name} ({missing[0]}, ...); copy or download it again")
    # the weights are plain numbers now, and save_pretrained refuses a model that says otherwise
    del model.config.quantization_config
    model.is_quantized, model.hf_quantizer = False, None
    model.config._name_or_path = str(file)
    return model, gguf_tokenizer(file)


def gguf_tokenizer(file: Path) -> Any:
    """The tokenizer of a GGUF file."""
    from transformers import AutoTokenizer

    check_packages()
    with _quiet():
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
    if _field(file, "tokenizer.ggml.pre") in DIGITS_APART:
        from tokenizers import pre_tokenizers

        own = tokenizer.backend_tokenizer
        own.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), own.pre_tokenizer])
    return tokenizer


def check_packages() -> None:
    """Refuse to go on where a package is missing.

    Raises:
        InputError: It names the packages and the command that installs them.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(
            f"a GGUF file is read with {' and '.join(missing)}; install them with `pip install 'unlearn_lib[real]'`"
        )


def _field(file: Path, name: str) -> Any:
    from gguf import GGUFReader

    field = GGUFReader(str(file)).get_field(name)
    return None if field is None else field.contents()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bar of the conversion, which no setting of transformers switches off."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield
