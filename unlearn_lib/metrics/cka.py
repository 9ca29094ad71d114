r"""Linear centred kernel alignment (CKA): how alike two models' hidden states are, layer by layer (Kornblith et al., arXiv 1905.00414).

With X and Y the hidden states of the same n tokens, `[n, d]` and `[n, e]`, columns centred:

$$\mathrm{CKA}(X, Y) = \frac{\lVert Y^\top X\rVert_F^2}{\lVert X^\top X\rVert_F\,\lVert Y^\top Y\rVert_F}.$$

It is 1 for equal states, also after a rotation or a scaling of either, and at least 0. This form needs `d x d` matrices only. For n
independent tokens of unrelated features it is about d / n, not 0, so take many more tokens than features.

**Floor.** Two models that were retrained with different seeds are not at 1. The distance 1 - CKA of an unlearned model from a
retrained one is to be read beside theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.losses import IGNORED, Batch, model_inputs, without_autocast

ROUNDING = 1e-12
"""A spread that is smaller than this share of the mean is rounding."""


class Products:
    r"""The centred products $X^\top X$, $Y^\top Y$, $Y^\top X$ of rows that come in parts, in float64.

    Parts are merged by their own means (Chan, Golub and LeVeque 1979), as sums of squares about 0 would lose the digits of features
    whose mean is large beside their spread, which some of a language model's are.
    """

    def __init__(self) -> None:
        self.n = 0

    def add(self, x_nd: Tensor, y_ne: Tensor) -> None:
        """Add rows of both, of the same tokens. Cost: n (d^2 + e^2 + d e) multiplications."""
        if len(x_nd) == 0:
            return
        x_nd, y_ne = x_nd.double(), y_ne.double()
        x_d, y_e = x_nd.mean(0), y_ne.mean(0)
        x_nd, y_ne = x_nd - x_d, y_ne - y_e
        parts = [x_nd.T @ x_nd, y_ne.T @ y_ne, y_ne.T @ x_nd]
        if self.n == 0:
            self.n, self.x_d, self.y_e, self.parts = len(x_nd), x_d, y_e, parts
            return
        total = self.n + len(x_nd)
        dx_d, dy_e, weight = x_d - self.x_d, y_e - self.y_e, self.n * len(x_nd) / total
        shifts = [torch.outer(dx_d, dx_d), torch.outer(dy_e, dy_e), torch.outer(dy_e, dx_d)]
        self.parts = [old + new + weight * shift for old, new, shift in zip(self.parts, parts, shifts, strict=True)]
        self.x_d = self.x_d + dx_d * len(x_nd) / total
        self.y_e = self.y_e + dy_e * len(x_nd) / total
        self.n = total

    def cka(self) -> float:
        """The CKA of all rows.

        Raises:
            InputError: Fewer than two rows.
            NumericsError: All rows are the same, or one is not finite.
        """
        if self.n < 2:
            raise InputError(f"CKA compares the spread of features over tokens and needs at least two tokens; got {self.n}")
        xx, yy, yx = (float(part.norm()) for part in self.parts)
        # what is left of features that are the same everywhere is rounding, and its CKA would be noise
        least = [self.n * (ROUNDING * float(mean.norm())) ** 2 for mean in (self.x_d, self.y_e)]
        value = yx / xx * (yx / yy) if xx > least[0] and yy > least[1] else float("nan")
        if not value >= 0:
            raise NumericsError(
                "CKA is not defined: the features are the same at every token, or not finite; give other texts, or look for a model "
                "that has diverged"
            )
        return value


def linear_cka(x_nd: Tensor, y_ne: Tensor) -> float:
    """The linear CKA of two sets of features of the same n rows, between 0 and 1.

    Args:
        x_nd, y_ne: `[n, d]` and `[n, e]`, any floating format; computed in float64.

    Raises:
        InputError: Different numbers of rows, or fewer than two.
        NumericsError: A feature is not finite, or all rows of one side are the same.
    """
    if x_nd.ndim != 2 or y_ne.ndim != 2 or len(x_nd) != len(y_ne):
        raise InputError(
            f"the features have shapes {tuple(x_nd.shape)} and {tuple(y_ne.shape)}, so they are not of the same rows; give [n, d] and "
            "[n, e]"
        )
    products = Products()
    products.add(x_nd, y_ne)
    return products.cka()


@torch.no_grad()
def cka(reference: Any, model: Any, batches: Sequence[Batch]) -> Tensor:
    """`[layers + 1]`, float64: the linear CKA of two models' hidden states, of the embeddings first and of the last layer last.

    Read it beside its floor, the CKA of two models that were retrained with different seeds.

    Args:
        reference, model: Causal language models in evaluation mode with equally many layers; their widths may differ.
        batches: The sequences. A token takes part once for every scored token that it predicts, so that overlapping pieces of a long
            text count nothing twice, and prompts and padding do not count.

    Raises:
        InputError: Different numbers of layers; fewer than two tokens.
        NumericsError: A hidden state is not finite, or a layer is the same at every token.

    Cost: a forward pass of each, three d x d products of every layer, and memory for three d x d matrices of every layer in float64.
    """
    layers: list[Products] = []
    for batch in batches:
        ours, theirs = (_predicting(each, batch) for each in (reference, model))
        if len(ours) != len(theirs):
            raise InputError(
                f"the reference has {len(ours) - 1} layers and the model {len(theirs) - 1}, so they cannot be compared layer by layer; "
                "give two models of one architecture"
            )
        layers = layers or [Products() for _ in ours]
        for products, x_nd, y_ne in zip(layers, ours, theirs, strict=True):
            products.add(x_nd, y_ne)
    if not layers:
        raise InputError("there are no texts on which the models could be compared; give at least one text")
    return torch.tensor([products.cka() for products in layers], dtype=torch.float64)


def _predicting(model: Any, batch: Batch) -> list[Tensor]:
    """For every layer `[n, d]`: the hidden states at the tokens from which a scored token is predicted."""
    with without_autocast():
        states = model(**model_inputs(batch), output_hidden_states=True).hidden_states
    scored_BS = batch["labels"][:, 1:] != IGNORED
    return [state[:, -batch["labels"].shape[1] : -1][scored_BS] for state in states]  # virtual tokens stand before the text
