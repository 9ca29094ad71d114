r"""The head of a language model as a convex problem: softmax regression on features that do not change.

A token with the features x in R^d and the label y has the loss l(W) = log sum_k exp(z_k) - z_y with z = W x, W of shape `[V, d]`.
A text's loss is the mean over its T_i scored tokens, as everywhere in this library, so that

    l_i(W) = sum_t w_t l(W; x_t, y_t),    grad l_i = sum_t w_t (p_t - e_y) x_t^T,    H_i U = sum_t w_t C(p_t) U x_t x_t^T

with w_t = 1 / T_i, p_t = softmax(W x_t) and C(p) = diag(p) - p p^T. All of it is in float64, and sums over the texts of a set.

Shape suffixes: N scored tokens of all texts, n texts, V vocabulary, d features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.vector import Vector, numbers

CHUNK = 1 << 23
"""Logits that are held at a time: 64 MiB in float64, and a few tensors of this size live at once."""
WEIGHT = "weight"
"""The name of the head's matrix in vectors."""


@dataclass(frozen=True)
class HeadTexts:
    """Texts as a head sees them.

    Attributes:
        features_Nd: The head's inputs at the positions that predict a scored token, in the format that the model computed them in.
        labels_N: The tokens to predict, int64.
        text_N: Which text a token belongs to, 0 to n - 1, int64.
        keys: What identifies each text, one for each of the n.
    """

    features_Nd: Tensor
    labels_N: Tensor
    text_N: Tensor
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    def only(self, numbers: Sequence[int]) -> HeadTexts:
        """The texts with these numbers, each once, in the order of the set."""
        wanted = sorted(set(numbers))
        place_n = torch.full((len(self),), -1, dtype=torch.long)
        place_n[wanted] = torch.arange(len(wanted))
        new_N = place_n.to(self.text_N.device)[self.text_N]
        kept_N = new_N >= 0
        keys = tuple(self.keys[number] for number in wanted)
        return HeadTexts(self.features_Nd[kept_N], self.labels_N[kept_N], new_N[kept_N], keys)

    def without(self, numbers: Sequence[int]) -> HeadTexts:
        """The texts whose numbers are not among these."""
        gone = set(numbers)
        return self.only([number for number in range(len(self)) if number not in gone])


class HeadRisk:
    """The sum of the losses of some texts as a function of the head, in float64.

    Args:
        texts: The texts.
        device: Where it is computed.

    Cost: of `loss` 2 N V d FLOPs, of `gradient` 4 N V d.
    """

    def __init__(self, texts: HeadTexts, device: torch.device | str = "cpu") -> None:
        self.texts = len(texts)
        self.features_Nd = texts.features_Nd.to(device, torch.float64)
        self.labels_N = texts.labels_N.to(device)
        text_N = texts.text_N.to(device)
        self.weight_N = 1 / torch.bincount(text_N, minlength=len(texts)).double()[text_N]

    def pieces(self, V: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """`(features [M, d], labels [M], weights [M])` of at most `CHUNK / V` tokens at a time, so that memory does not grow with N."""
        size = max(1, CHUNK // V)
        for start in range(0, len(self.labels_N), size):
            part = slice(start, start + size)
            yield self.features_Nd[part], self.labels_N[part], self.weight_N[part]

    def loss(self, W_Vd: Tensor) -> float:
        """sum_i l_i(W), in nats."""
        found = list[Tensor]()
        for x_Md, y_M, w_M in self.pieces(len(W_Vd)):
            nll_M = torch.nn.functional.cross_entropy(x_Md @ W_Vd.T, y_M, reduction="none")
            found.append(w_M @ nll_M)
        return sum(numbers(found))

    def gradient(self, W_Vd: Tensor) -> Tensor:
        """`[V, d]`: sum_i grad l_i(W)."""
        g_Vd = torch.zeros_like(W_Vd)
        for x_Md, y_M, w_M in self.pieces(len(W_Vd)):
            error_MV = (x_Md @ W_Vd.T).softmax(-1)
            error_MV[torch.arange(len(y_M), device=y_M.device), y_M] -= 1
            g_Vd += (error_MV * w_M[:, None]).T @ x_Md
        return g_Vd

    def largest_norm(self) -> float:
        """C, the largest Euclidean norm of a token's features."""
        return float(self.features_Nd.norm(dim=1).max())

    def spectral_norm(self) -> float:
        """The spectral norm of the matrix with the rows sqrt(w_t) x_t. Cost: 2 N d^2 FLOPs and the eigenvalues of a d x d matrix."""
        A_Nd = self.features_Nd * self.weight_N.sqrt()[:, None]
        return float(torch.linalg.eigvalsh(A_Nd.T @ A_Nd)[-1].clamp_min(0).sqrt())


class HeadHessian(Operator):
    """The Hessian of a `HeadRisk` at W, by its products: U to sum_t w_t C(p_t) U x_t x_t^T. Symmetric and positive semi-definite.

    Args:
        risk: Over which texts.
        W_Vd: The head at which it is taken, float64.

    Cost: 4 N V d FLOPs a product where N V is at most `CHUNK`, so that the probabilities are kept. Beyond that they are computed anew for
    each product, because they may take far more memory than the head, and it costs 6 N V d.
    """

    def __init__(self, risk: HeadRisk, W_Vd: Tensor) -> None:
        self.risk, self.params = risk, {WEIGHT: W_Vd}
        few = len(risk.labels_N) * len(W_Vd) <= CHUNK
        self._kept_NV = (risk.features_Nd @ W_Vd.T).softmax(-1) if few else None

    def mv(self, v: Vector) -> Vector:
        W_Vd, U_Vd = self.params[WEIGHT], v[WEIGHT]
        product_Vd = torch.zeros_like(U_Vd)
        for x_Md, _, w_M in self.risk.pieces(len(W_Vd)):
            p_MV = (x_Md @ W_Vd.T).softmax(-1) if self._kept_NV is None else self._kept_NV
            u_MV = x_Md @ U_Vd.T
            u_MV -= (p_MV * u_MV).sum(-1, keepdim=True)
            product_Vd += (p_MV * u_MV * w_M[:, None]).T @ x_Md
        return {WEIGHT: product_Vd}
