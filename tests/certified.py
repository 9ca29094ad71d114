"""Certified heads for tests: of random numbers, and of models for tests that loop over every method."""

from typing import Any

import torch

from unlearn_lib.curvature.softmax_head import HeadRisk, HeadTexts
from unlearn_lib.methods import METHODS
from unlearn_lib.models.certified import Certificate, Penalty
from unlearn_lib.training.certified import Objective, minimise, train_certified_head

V, D = 5, 3
LOOPED = [name for name, method in METHODS.items() if method.form in ("", "certified")]
"""The methods that tests loop over, with a model that is `suited`."""


def random_texts(n: int, seed: int = 0) -> HeadTexts:
    """Texts of 1 to 4 tokens with features of norm about sqrt(3)."""
    generator = torch.Generator().manual_seed(seed)
    sizes_n = torch.randint(1, 5, (n,), generator=generator)
    N = int(sizes_n.sum())
    return HeadTexts(
        torch.randn(N, D, generator=generator, dtype=torch.float64),
        torch.randint(V, (N,), generator=generator),
        torch.arange(n).repeat_interleave(sizes_n),
        tuple(f"text {number}" for number in range(n)),
    )


def trained(
    texts: HeadTexts, weight_decay: float = 0.1, sigma: float = 1.0, penalty: Penalty = "fixed", trained: int | None = None
) -> Certificate:
    """A head that minimises the objective on some texts, with a penalty for `trained` of them."""
    n = trained or len(texts)
    noise_VD = sigma * torch.randn(V, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    center_VD = torch.zeros(V, D, dtype=torch.float64)
    found = minimise(Objective(HeadRisk(texts), weight_decay * n, noise_VD, center_VD), 1e-10)
    return Certificate(
        found.head_Vd,
        noise_VD,
        center_VD,
        texts,
        weight_decay,
        penalty,
        n,
        sigma,
        found.residual,
        0,
        True,
        found.products,
        None,
    )


def suited(method: str, model: Any, tokenizer: Any, rows: list[dict[str, str]]) -> Any:
    """The model itself, or for certified removal one on its body whose head is trained on the rows."""
    if method != "certified-newton":
        return model
    return train_certified_head(model, tokenizer, rows, weight_decay=1.0, sigma=100.0, body_public=True, seed=0)
