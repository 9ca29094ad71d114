"""The six embedded models: their shapes, and where their files lie.

s, m and l stand for the paper's 125M, 1.3B and 2.7B. `pretraining.py` makes them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unlearn_lib.models.corpora import Generated
from unlearn_lib.models.recipes import ModelSpec, Recipe

FOLDER = Path(__file__).parent / "nano_models"
VOCABULARY = 1024
CONTEXT = 256

SPECS: dict[str, ModelSpec] = {
    f"nano/{family}-{size}": ModelSpec(family, *shape)
    for family in ("neo", "opt")
    for size, shape in {
        "s": (64, 3, 4, 3e-3, 2200, "125M"),
        "m": (128, 4, 4, 2e-3, 1600, "1.3B"),
        "l": (192, 6, 6, 1.2e-3, 1500, "2.7B"),
    }.items()
}

RECIPE = Recipe(
    kind="nano",
    called="embedded model",
    specs=SPECS,
    folder=FOLDER,
    vocabulary=VOCABULARY,
    context=CONTEXT,
    local_window=64,
    batch=8,
    micro_batch=8,
    warm_up=50,
    saved="float16",
    autocast=False,
    corpus=lambda folder: Generated(),
    command="python -m unlearn_lib.models.pretraining {name}",
)


def config(spec: ModelSpec) -> Any:
    """The transformers configuration of a spec, with the embedded models' vocabulary and context."""
    return RECIPE.config(spec)
