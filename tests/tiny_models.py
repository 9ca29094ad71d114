"""Tiny models with random weights, and short passages, for the tests."""

from typing import Any

import torch

from unlearn_lib.data.nano import lambada
from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.models import nano


def build(family: str = "opt", dtype: torch.dtype = torch.float64, seed: int = 0) -> Any:
    """A model of two layers of width 16, random weights from a seed."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    spec = nano.ModelSpec(family, 16, 2, 2, 0.0, 0, "")
    model = AutoModelForCausalLM.from_config(nano.config(spec)).to(dtype).eval()
    # the initial weights of transformers are so small that all curvature would vanish
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(5 if p.ndim > 1 else 1)
    return model


def passages() -> list[dict[str, str]]:
    """Forty short passages of different lengths."""
    return [{"text": lambada.record(Draw("test", i), reserved=False)["text"][: 60 + 3 * i]} for i in range(40)]
