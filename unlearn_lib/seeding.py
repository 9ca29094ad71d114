"""Draws from the global generators, for a while, by a seed of our own.

A model draws its dropout masks from torch's global generator of its device, and some draw from NumPy's or Python's; none of them
takes a generator as an argument. So these are seeded while the model is at work, and put back where the caller had them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def own_draws(model: Any, seed: int) -> Iterator[Callable[[int], None]]:
    """Inside, what the model draws depends on `seed` alone; afterwards all global generators stand where they stood.

    Only the generators of the CPU and of the devices that the model lies on are touched. A generator of its own for every step
    needs no state in a checkpoint: step k draws the same whether or not training was interrupted before it.

    Args:
        model: The model; CPU and CUDA.
        seed: Any integer.

    Yields:
        `at(step)`: seeds the generators for one step. They are seeded for step 0 on entry.
    """
    cuda = sorted({p.device.index for p in model.parameters() if p.device.type == "cuda"})

    def at(step: int) -> None:
        one, two = np.random.SeedSequence([seed % 2**64, step]).generate_state(2, np.uint64).tolist()
        torch.default_generator.manual_seed(one)
        for index in cuda:
            torch.cuda.default_generators[index].manual_seed(one)
        random.seed(two)
        np.random.seed(two % 2**32)  # noqa: NPY002

    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng(cuda, device_type="cuda"):
            at(0)
            yield at
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
