r"""Direct preference optimisation with refusals (Rafailov et al. 2023, arXiv 2305.18290; for unlearning: TOFU, arXiv 2401.06121).

    r(y) = log p_theta(y | x) - log p_original(y | x)                     summed over the tokens of y
    L    = -gamma mean log sigmoid( beta (r(refusal) - r(y_forget)) ) + alpha (retain term)

What is preferred is a refusal after the same prompt x, drawn anew from the seed for every text and step; what is not preferred is
what the text to forget says there. Unlike NPO this also teaches an answer. (OpenUnlearning multiplies the term by 2 / beta, which
forget_weight=20 does here with the default beta; without it the retain term weighs twenty times as much as there.) See `refusals.py`
for the refusals and for texts that have no prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import logsigmoid

from unlearn_lib.data.batches import Example, positions
from unlearn_lib.errors import InputError
from unlearn_lib.losses import summed_losses
from unlearn_lib.methods.base import Inputs, Outcome
from unlearn_lib.methods.descent import RetainTerm, Step
from unlearn_lib.methods.refusals import Pairs, read


class DPO(RetainTerm):
    """A refusal is preferred to what the text to forget says. Every text to forget takes two gradients, with a refusal and as it is.

    Options:
        beta: Inverse temperature (OpenUnlearning: 0.1). The smaller it is, the further texts are forgotten before the loss is flat.
        refusals: "own" for the twenty of this library, or the path of a file of texts, one refusal in a row, in the column `text`.
        prompt_tokens: Of a text to forget without a prompt the first so many tokens count as one, at most half of them, and are not
            forgotten themselves.
    """

    name: ClassVar[str] = "dpo"
    source: ClassVar[str] = "Rafailov et al. 2023 (arXiv 2305.18290), with refusals as in TOFU (arXiv 2401.06121)"

    beta: float = Field(0.1, gt=0)
    refusals: str = "own"
    prompt_tokens: int = Field(8, ge=1)

    @property
    def forgets_by_original(self) -> bool:
        return True

    def prepare(self, model: Any, inputs: Inputs, outcome: Outcome) -> None:
        if inputs.tokenizer is None:
            raise InputError(
                "dpo writes refusals, which cannot be encoded without the model's tokenizer; give it in the inputs"
            )

    def looks_at(self, model: Any, inputs: Inputs) -> Callable[[Sequence[Example], int], Sequence[Example]]:
        """The texts to forget, and after them as many refusals. In a plan without a tokenizer a refusal counts as long as the text."""
        if inputs.tokenizer is None:
            return lambda texts, step: [*texts, *texts]
        return Pairs(inputs.tokenizer, read(self.refusals), self.prompt_tokens, positions(model), inputs.seed)

    def forget_loss(self, model: Any, step: Step) -> Tensor:
        with torch.no_grad():
            reference_2B = summed_losses(step.original, step.forget)
        said_B, refused_B = (reference_2B - summed_losses(model, step.forget)).chunk(2)
        return -logsigmoid(self.beta * (refused_B - said_B)).mean()
