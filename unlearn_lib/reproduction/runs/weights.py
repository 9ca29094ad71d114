"""Figure 4: histograms of the last layer's weights, and divergences between such histograms."""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.errors import InputError
from unlearn_lib.reproduction import paper

SHOWN_BINS = 120
PER_BIN = round(paper.WEIGHTS / paper.BINS)
"""The paper has 59 weights to a bin; a smaller matrix gets as many fewer bins."""


def projection(model: Any) -> Tensor:
    """The output projection of the last layer's MLP, which the number of weights in the paper's histograms points to."""
    found = [p for name, p in model.named_parameters() if re.search(r"(mlp\.c_proj|fc2)\.weight$", name)]
    if not found:
        raise InputError(f"{model.config.model_type} has no MLP projection that is named as in GPT-Neo or OPT")
    weights: Tensor = found[-1].detach().double().cpu()
    return weights


def last_projection(model: Any, gold: Any) -> dict[str, Any]:
    """A model's last projection beside the retrained model's: histogram on common bins, divergence of fine histograms in nats as
    they are and with one side rounded to half precision, and the relative distance of the weights."""
    own, other = projection(model), projection(gold)
    limit = max(own.abs().max().item(), other.abs().max().item())
    return {
        "limit": limit,
        "counts": torch.histc(own, SHOWN_BINS, -limit, limit).long().tolist(),
        "retrained_counts": torch.histc(other, SHOWN_BINS, -limit, limit).long().tolist(),
        "divergence": {
            name: histogram_divergence(other, own.to(dtype).double())
            for name, dtype in (
                ("float32", torch.float32),
                ("float16", torch.float16),
                ("bfloat16", torch.bfloat16),
            )
        },
        "relative_distance": ((own - other).norm() / other.norm()).item(),
    }


def histogram_divergence(p: Tensor, q: Tensor, bins: int | None = None) -> float:
    """KL between the histograms of two tensors over their common range, in nats; every bin has one count more, so that none is
    empty. `bins` defaults to one for every `PER_BIN` weights."""
    bins = bins or max(2, p.numel() // PER_BIN)
    low, high = min(p.min().item(), q.min().item()), max(p.max().item(), q.max().item())
    p_K, q_K = (torch.histc(x.double().flatten(), bins, low, high) + 1 for x in (p, q))
    p_K, q_K = p_K / p_K.sum(), q_K / q_K.sum()
    return float((p_K * (p_K / q_K).log()).sum())


def with_activation(model: Any, name: str) -> Any:
    """A copy of a model with another activation function in its MLPs ("relu", "gelu_new", ...), its weights unchanged."""
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(model.config)
    config.activation_function = name
    changed = AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(model.device)
    changed.load_state_dict(model.state_dict())
    return changed.eval()
