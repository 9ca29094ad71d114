r"""The six models of the gpu profile, 28 to 126 million parameters: too large to embed, trained once on a GPU.

How many tokens: `torch.utils.flop_counter` counts `MFLOP_PER_TOKEN` in a training step (attention included; 6 N would be
165, 360 and 758). At an assumed 30 % of the 989 TFLOP/s that one H200 has in bfloat16, 9 minutes hold 880, 400 and 190 million
tokens of s, m and l. Every model is trained on 190 million, so that the largest takes 9 minutes and all six together half an
hour; they stay below an hour down to 15 %. The share of 30 % is an assumption: nothing here was measured on a GPU.
"""

from __future__ import annotations

import os
from pathlib import Path

from unlearn_lib.models.corpora import Mixed
from unlearn_lib.models.recipes import ModelSpec, Recipe

FOLDER = Path(os.environ.get("UNLEARN_LIB_MODELS", Path(__file__).parents[2] / "build" / "models")) / "gpu"
"""In the checkout, outside git; the environment variable UNLEARN_LIB_MODELS names another folder."""

BATCH, CONTEXT = 128, 512
MFLOP_PER_TOKEN = {"s": 182.45, "m": 397.15, "l": 830.47}
ASSUMED_FLOPS = 0.3 * 989e12
STEPS = int(round(9 * 60 * ASSUMED_FLOPS / (1e6 * MFLOP_PER_TOKEN["l"] * BATCH * CONTEXT), -2))
"""What the largest model takes about 9 minutes for, in hundreds: 2900."""

SPECS: dict[str, ModelSpec] = {
    f"gpu/{family}-{size}": ModelSpec(family, *shape)
    for family in ("neo", "opt")
    for size, shape in {
        "s": (512, 6, 8, 1e-3, STEPS, "125M"),
        "m": (640, 10, 10, 8e-4, STEPS, "1.3B"),
        "l": (768, 16, 12, 6e-4, STEPS, "2.7B"),
    }.items()
}

RECIPE = Recipe(
    kind="gpu",
    called="model of the gpu profile",
    specs=SPECS,
    folder=FOLDER,
    vocabulary=16_384,
    context=CONTEXT,
    local_window=256,
    batch=BATCH,
    micro_batch=32,
    warm_up=200,
    saved="float32",
    autocast=True,
    corpus=lambda folder: Mixed(folder, documents=600_000),
    command="python -m unlearn_lib.models.pretraining {name} --minutes 9",
)
