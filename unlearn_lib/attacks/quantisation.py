r"""Quantisation as an attack (Zhang et al. 2024, arXiv 2410.16454): weights that an unlearning method has moved by less than half a
step of the rounding are rounded to where those of the original are, and what was forgotten comes back.

Round to nearest, symmetric, for every output row w of a matrix (or for every group of it), with L = 2^(bits - 1) - 1:

    step = max_i |w_i| / L,      w_i  ->  step * round(w_i / step)

so that a row has at most 2L + 1 = 2^bits - 1 values, zero among them, and no weight moves by more than half a step. Halves are
rounded to even. Nothing is calibrated on data. The result is stored as ordinary numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.attacks.knowledge import knowledge
from unlearn_lib.attacks.matrices import changed
from unlearn_lib.attacks.recovered import Recovered, compared
from unlearn_lib.data.batches import Example
from unlearn_lib.errors import InputError


def quantise(weight_OI: Tensor, bits: int, group_size: int | None = None) -> Tensor:
    """A matrix rounded to `bits` bits and back, in its own shape and number format.

    The rounding is computed in float32 or wider. In a narrower format (bfloat16) the values that come back are rounded once more
    to that format.

    Args:
        weight_OI: `[..., O, I]`, finite, with a row for each output.
        bits: 2 to 16.
        group_size: How many neighbouring inputs of a row share a step; the last group may be smaller. None: the whole row.

    Raises:
        InputError: `bits` or `group_size` out of range.
    """
    if not 2 <= bits <= 16:
        raise InputError(f"bits is the number of bits of a weight, 2 to 16; got {bits}")
    if group_size is not None and group_size < 1:
        raise InputError(f"group_size is the number of weights that share a step, at least 1; got {group_size}")
    most, inputs = 2 ** (bits - 1) - 1, weight_OI.shape[-1]
    size = min(group_size or inputs, inputs)
    wide_OI = weight_OI.to(torch.promote_types(weight_OI.dtype, torch.float32))
    # the zeros that fill up the last group do not change its largest weight
    groups_OGS = torch.nn.functional.pad(wide_OI, (0, -inputs % size)).unflatten(-1, (-1, size))
    step_OG1 = groups_OGS.abs().amax(-1, keepdim=True) / most
    levels_OGS = (groups_OGS / step_OG1.where(step_OG1 > 0, 1.0)).round().clamp(-most, most)
    back_OI: Tensor = (levels_OGS * step_OG1).flatten(-2)[..., :inputs]
    return back_OI.to(weight_OI.dtype)


def quantised(model: Any, bits: int, group_size: int | None = None, embeddings: bool = False) -> Any:
    """A copy of the model in which every matrix is rounded by `quantise`; biases and norms keep their digits.

    Args:
        model: A causal language model; it is left as it is.
        bits, group_size: As of `quantise`.
        embeddings: Whether embeddings and the output head are rounded, too. Most quantised models keep theirs.

    An adapter of peft is rounded beside the matrix that it is for, as it lies; merge it first to attack the sum of both.

    Raises:
        InputError, NumericsError: As `quantise` and `changed`.

    Cost: the model's memory.
    """
    return changed(model, lambda weight_OI: quantise(weight_OI, bits, group_size), embeddings)


def quantisation(
    model: Any,
    examples: Sequence[Example],
    bits: int = 4,
    *,
    group_size: int | None = None,
    embeddings: bool = False,
    known: float | None = None,
    unseen: float | None = None,
    batch_size: int = 32,
) -> Recovered:
    """What comes back of some forget texts when the model is quantised.

    Rounding to few bits also damages a model. So a loss that does not fall says little where the loss of other texts rises; measure
    them in `quantised(model, bits)`.

    Args:
        model: The unlearned model; it is left as it is.
        examples: The forget texts.
        bits, group_size, embeddings: As of `quantised`. The paper takes 8 and 4 bits.
        known, unseen: The texts' mean loss in the original and in a retrained model, as they are; see `Recovered`.
        batch_size: Sequences in a forward pass.

    Raises:
        InputError, NumericsError: As `quantised`; no texts.

    Cost: two forward passes, and the model's memory once more.
    """
    before = knowledge(model, examples, batch_size=batch_size)
    after = knowledge(quantised(model, bits, group_size, embeddings), examples, batch_size=batch_size)
    setting = {"bits": bits, "group_size": group_size, "embeddings": embeddings}
    return Recovered("quantisation", setting, **compared(before, after), known=known, unseen=unseen)
