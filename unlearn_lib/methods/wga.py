r"""Weighted gradient ascent (Wang et al. 2025, arXiv 2502.19301): ascent that leaves a token alone once the model expects it no more.

    L = -gamma mean_texts mean_t [ p_theta(y_t)^beta NLL_theta(y_t) ] + alpha (retain term),      p^beta held fixed in the gradient

The gradient of NLL = -log p has the factor 1 / p, by which ascent pushes hardest where nothing is left to forget. The weight takes it
away. With beta = 0 every weight is 1, and this is gradient difference. The paper's objective sums over the tokens of a text; here, as
in every loss of this library, they are averaged, and every text counts alike (the authors' code averages over all tokens of a batch).
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from unlearn_lib.losses import Batch, sequence_means, token_logits, token_nll
from unlearn_lib.methods.descent import RetainTerm, Step
from unlearn_lib.ranks import text_by_text


class WGA(RetainTerm):
    """Minus the forget loss with every token weighted by a power of its probability, plus a retain term.

    Options:
        beta: The power of a token's probability that weighs it (OpenUnlearning: 1); 0 is gradient difference.
    """

    name: ClassVar[str] = "wga"
    source: ClassVar[str] = "Wang et al. 2025 (arXiv 2502.19301)"

    beta: float = Field(1.0, ge=0)

    def forget_loss(self, model: Any, step: Step) -> Tensor:
        def weighted(batch: Batch) -> Tensor:
            nll_BS, scored_BS = token_nll(token_logits(model, batch), batch["labels"])
            weight_BS = (-self.beta * nll_BS.detach()).exp()
            return sequence_means(weight_BS * nll_BS, scored_BS)

        return -text_by_text(weighted, step.forget).mean()
