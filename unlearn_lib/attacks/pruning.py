r"""Magnitude pruning as an attack: the smallest weights of every matrix become zero (Han et al. 2015, arXiv 1506.02626).

Pruning a few parts of an unlearned model is one of the attacks that brought knowledge back in Łucki et al. 2024 (arXiv 2409.18025),
where the neurons are chosen by data. Here nothing but the size of the weights chooses, so that it is an attack without any text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from torch import Tensor

from unlearn_lib.attacks.knowledge import knowledge
from unlearn_lib.attacks.matrices import changed
from unlearn_lib.attacks.recovered import Recovered, compared
from unlearn_lib.data.batches import Example
from unlearn_lib.errors import InputError


def prune(weight_OI: Tensor, sparsity: float) -> Tensor:
    """A matrix of which the floor(sparsity * O * I) smallest weights are zero; of equal ones the first, row by row, go first.

    Args:
        weight_OI: `[..., O, I]`, finite; in a stack each matrix is pruned by itself.
        sparsity: The share of the weights that become zero, in [0, 1), read as the decimal number that it is written as: .29 of 100
            weights are 29, and not the 28 that binary rounding gives.

    Raises:
        InputError: A sparsity out of range.

    Cost: a sort of the weights.
    """
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity is the share of the weights that become zero, at least 0 and below 1; got {sparsity}")
    flat = weight_OI.flatten(-2)
    gone = math.floor(Fraction(str(sparsity)) * flat.shape[-1])
    smallest = flat.abs().argsort(dim=-1, stable=True)[..., :gone]
    left: Tensor = flat.scatter(-1, smallest, 0.0)
    return left.reshape(weight_OI.shape)


def pruned(model: Any, sparsity: float, embeddings: bool = False) -> Any:
    """A copy of the model in which every matrix is pruned by `prune`.

    Args:
        model: A causal language model; it is left as it is.
        sparsity: As of `prune`.
        embeddings: Whether embeddings and the output head are pruned, too.

    Raises:
        InputError, NumericsError: As `prune` and `changed`.

    Cost: the model's memory, and a sort of each matrix.
    """
    return changed(model, lambda weight_OI: prune(weight_OI, sparsity), embeddings)


def pruning(
    model: Any,
    examples: Sequence[Example],
    sparsity: float = 0.1,
    *,
    embeddings: bool = False,
    known: float | None = None,
    unseen: float | None = None,
    batch_size: int = 32,
) -> Recovered:
    """What comes back of some forget texts when the model is pruned.

    Args:
        model: The unlearned model; it is left as it is.
        examples: The forget texts.
        sparsity, embeddings: As of `pruned`.
        known, unseen: The texts' mean loss in the original and in a retrained model, as they are; see `Recovered`.
        batch_size: Sequences in a forward pass.

    Raises:
        InputError, NumericsError: As `pruned`; no texts.

    Cost: two forward passes, and the model's memory once more.
    """
    before = knowledge(model, examples, batch_size=batch_size)
    after = knowledge(pruned(model, sparsity, embeddings), examples, batch_size=batch_size)
    setting = {"sparsity": sparsity, "embeddings": embeddings}
    return Recovered("pruning", setting, **compared(before, after), known=known, unseen=unseen)
