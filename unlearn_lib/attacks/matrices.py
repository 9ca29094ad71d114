"""The matrices of a model, and a copy of the model in which each was changed by a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.attacks.copies import working_copy
from unlearn_lib.errors import InputError, NumericsError


def matrices(model: Any, embeddings: bool = False) -> Iterator[tuple[str, Tensor]]:
    """`(name, [..., O, I])` of every matrix, with a row for each output: a view that shares the parameter's memory.

    These are the parameters of two dimensions or more that are no biases. The experts of a layer that lie in one tensor are a stack
    of matrices. GPT-2 and some experts store a matrix with its outputs as columns; the view has them as rows.

    Args:
        model: A causal language model.
        embeddings: Whether to give the embeddings of tokens and positions and the output head, too (a row for each token). Tied
            weights come once.
    """
    from transformers.pytorch_utils import Conv1D

    left_out = set() if embeddings else _embeddings(model)
    seen: set[int] = set()
    for path, module in model.named_modules():
        transposed = isinstance(module, Conv1D) or getattr(module, "is_transposed", False)
        for name, p in module.named_parameters(path, recurse=False):
            if p.ndim < 2 or name.endswith("bias") or id(p) in left_out or id(p) in seen:
                continue
            seen.add(id(p))
            yield name, p.detach().transpose(-1, -2) if transposed else p.detach()


@torch.no_grad()
def changed(model: Any, change: Callable[[Tensor], Tensor], embeddings: bool = False) -> Any:
    """A copy of the model in which each matrix is `change` of it.

    Args:
        model: A causal language model; it is left as it is.
        change: From `[..., O, I]` to the same shape.
        embeddings: As of `matrices`.

    Raises:
        InputError: The model has no matrices.
        NumericsError: A weight is not finite.

    Cost: the model's memory.
    """
    own, none = working_copy(model), True
    for name, weight in matrices(own, embeddings):
        none = False
        if not torch.isfinite(weight).all():
            raise NumericsError(
                f"the weights of {name} are not all finite, so the model cannot be attacked; check its training"
            )
        weight.copy_(change(weight))
    if none:
        raise InputError("the model has no matrices that could be changed; give a causal language model with plain weights")
    return own


def _embeddings(model: Any) -> set[int]:
    """Which parameters are embeddings or the head, by identity."""
    modules = [module for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    head = model.get_output_embeddings()
    return {id(module.weight) for module in (*modules, *([] if head is None else [head]))}
