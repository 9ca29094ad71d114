"""A call can be followed: on its way through the library it crosses few files, and comes back to none that it has left."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from dense import build
from tokenizers_made import characters

import unlearn_lib
from unlearn_lib import unlearn

LIBRARY = Path(unlearn_lib.__file__).parent
PLACES = {"the curvature is applied": ("curvature/solvers/kfac.py", "power"), "the model moves": ("methods/target.py", "go")}


@contextmanager
def followed(found: dict[str, list[str]]) -> Iterator[None]:
    """Note the way to each of `PLACES`: the files of the library on the stack when it is first reached, from `unlearn` on."""

    def look(frame: FrameType, event: str, _: Any) -> None:
        for label, (file, function) in PLACES.items():
            if event == "call" and frame.f_code.co_name == function and frame.f_code.co_filename.endswith(file):
                found.setdefault(label, way(frame))

    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)


def way(frame: FrameType | None) -> list[str]:
    files = []
    while frame is not None:
        if Path(frame.f_code.co_filename).is_relative_to(LIBRARY):
            files.append(Path(frame.f_code.co_filename).relative_to(LIBRARY).as_posix())
        frame = frame.f_back
    return [file for file, _ in groupby(reversed(files))]


@pytest.fixture(scope="module")
def ways() -> dict[str, list[str]]:
    """The ways of one call with Fisher Removal, on a model whose factors are small."""
    tokenizer, found = characters(), dict[str, list[str]]()
    model = build("gpt2", dtype=torch.float32, vocabulary=len(tokenizer))
    texts = [{"text": f"{i} {word}"} for i, word in enumerate("sea sun map tree cat dog ink fog".split())]
    with followed(found):
        unlearn(
            model,
            tokenizer,
            forget=texts[:2],
            retain=texts[2:],
            method="fisher-removal",
            target_loss=5.0,
            steps=1,
            retain_limit=None,
        )
    return found


def test_from_unlearn_to_the_step_of_fisher_removal(ways: dict[str, list[str]]) -> None:
    assert ways.keys() == PLACES.keys()
    for label, files in ways.items():
        assert files[:2] == ["unlearning/unlearn.py", "methods/direction.py"], label
        assert len(files) <= 8, (label, files)
        assert len(set(files)) == len(files), (label, files)
        layers = [next((name for name in ("methods", "curvature") if file.startswith(name)), "top") for file in files]
        assert [layer for layer, _ in groupby(layers)] in (["top", "methods"], ["top", "methods", "curvature"]), files


def test_the_way_is_written_down(ways: dict[str, list[str]]) -> None:
    """CONTRIBUTING names the files of the methods that a call comes through."""
    section = (LIBRARY.parent / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## How a call runs")[2]
    for file in {file for files in ways.values() for file in files if file.startswith("methods/")}:
        assert f"`{file}`" in section, file
