r"""The paper's inverse empirical Fisher: its recursion, equations 7 and 8, on diagonal blocks.

    F_0^{-1} = I / lambda
    F_i^{-1} = F_{i-1}^{-1} - (F_{i-1}^{-1} g_i)(F_{i-1}^{-1} g_i)^T / (m + g_i^T F_{i-1}^{-1} g_i),   i = 1 ... m

which after m terms is the inverse of lambda I + (1/m) sum_i g_i g_i^T (Sherman-Morrison), block by block.
The g_i are gradients of mini-batches of D+. Shape suffixes: K blocks, B block width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlearn_lib.errors import InputError


class BlockRecursion:
    """The block-diagonal inverse Fisher, built one gradient at a time.

    Args:
        blocks: Number of blocks K.
        width: Block width B.
        damping: lambda > 0.
        terms: m, the number of gradients that will be added; it stands in every denominator.
        like: A tensor whose dtype and device are used.

    Memory: K B^2 numbers, that is B times the model. Cost of a term: 4 K B^2 FLOPs.
    """

    def __init__(self, blocks: int, width: int, damping: float, terms: int, like: Tensor) -> None:
        if damping <= 0:
            raise InputError(f"damping must be positive, got {damping}; the paper uses 1")
        self.terms = terms
        self.inverse_KBB = torch.zeros(blocks, width, width, dtype=like.dtype, device=like.device)
        self.inverse_KBB.diagonal(dim1=1, dim2=2).fill_(1 / damping)

    def add(self, g_KB: Tensor) -> None:
        """One step of equation 8."""
        u_KB = self.apply(g_KB)
        scale_K = 1 / (self.terms + (g_KB * u_KB).sum(1))
        self.inverse_KBB.baddbmm_((u_KB * scale_K[:, None]).unsqueeze(2), u_KB.unsqueeze(1), alpha=-1)

    def apply(self, v_KB: Tensor) -> Tensor:
        """`[K, B]`: F^{-1} v, block by block."""
        return torch.bmm(self.inverse_KBB, v_KB.unsqueeze(2)).squeeze(2)

    def apply_root(self, v_KB: Tensor, power: float, chunk: int = 4096) -> Tensor:
        """`[K, B]`: (F^{-1})^power v by the eigendecomposition of every block (power 1/4 is F^{-1/4})."""
        pieces = []
        for inverse, v in zip(self.inverse_KBB.split(chunk), v_KB.split(chunk), strict=True):
            values, vectors = torch.linalg.eigh(inverse)
            coefficients = torch.bmm(vectors.mT, v.unsqueeze(2)) * values.clamp_min(0).pow(power).unsqueeze(2)
            pieces.append(torch.bmm(vectors, coefficients).squeeze(2))
        return torch.cat(pieces)
