r"""The Gauss-Newton-Bartlett estimate of a curvature's diagonal (Liu et al. 2023, arXiv 2305.14342, algorithm 2): one backward pass.

    h_hat = ( sum_i sum_t (1 / n T_i)^(1/2) grad( -log p_theta(y_it | x_i,<t) ) )^2        labels y_it drawn from the model itself

The square is taken by coordinate. The gradients of drawn labels have mean zero and are independent of each other, so that the products
of different ones vanish in the mean, and E h_hat is the diagonal of the Gauss-Newton matrix of the texts. Where all n texts have T scored
tokens this is the paper's B g_hat^2 with B = n T labels, g_hat being the gradient of their mean loss; the weights keep it true for texts of
different lengths, whose losses are means over their own tokens here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.curvature.gradient import summed_gradient
from unlearn_lib.curvature.kfac import draw_labels, pass_over
from unlearn_lib.curvature.risk import token_weights
from unlearn_lib.curvature.vector import Vector
from unlearn_lib.losses import Batch, token_logits, token_nll
from unlearn_lib.ranks import ranks


def bartlett_diagonal(model: Any, batches: Sequence[Batch], seed: int) -> Vector:
    """h_hat from one draw of the labels of some texts, by the model's trainable parameters.

    Args:
        model: A causal language model in evaluation mode.
        batches: The texts. Where they are scored says where labels are drawn; their own labels are not used.
        seed: Of the draw. It is made on the CPU, so that a seed means the same labels on every device.

    Returns:
        A vector without negative entries.

    Raises:
        NumericsError: The logits or the gradient are not finite.

    Cost: one gradient of each text, however many labels it has.
    """
    generator = torch.Generator().manual_seed(seed % 2**63)
    sequences, before = sum(len(batch["labels"]) for batch in batches), ranks().share(batches).before

    def loss_of(batch: Batch) -> tuple[Tensor, Tensor]:
        z_BTV = token_logits(model, batch)
        if before:
            pass_over(before, z_BTV[:, :-1].detach().cpu(), batch["labels"].shape[1], generator)
            before.clear()
        weights_BS = token_weights(z_BTV, batch, sequences).sqrt().to(z_BTV)
        drawn_BS = draw_labels(z_BTV[:, :-1].detach().cpu(), (weights_BS > 0).cpu(), generator).to(z_BTV.device)
        nll_BS, _ = token_nll(z_BTV, torch.nn.functional.pad(drawn_BS, (1, 0)))
        return (nll_BS * weights_BS).sum(), weights_BS.new_zeros((), dtype=torch.float64)

    _, found = summed_gradient(model, batches, loss_of, "the loss of labels drawn from the model")
    return {name: g.square() for name, g in found.items()}
