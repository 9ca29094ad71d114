r"""The logit lens as an attack: what the layers inside a model still know of a text that its last layer no longer says.

The state h_l behind layer l is read as if it were the last one, through the model's own final norm and head (nostalgebraist 2020,
"interpreting GPT: the logit lens"; as an attack on forgetting: Patil et al. 2023, arXiv 2309.17410):

    logits_l = head(project(norm(h_l))),      l = 0 (what enters the first layer), ..., L (the model's own logits)

Layers near the first say little about any text. So a low loss inside is to be compared with the same layer of a retrained model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.attacks.knowledge import Knowledge, of_logits, of_predictions
from unlearn_lib.attacks.recovered import Recovered, compared
from unlearn_lib.curvature.risk import evaluating
from unlearn_lib.data.batches import Example, make_batches
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.losses import Batch, token_logits, without_autocast
from unlearn_lib.models.layers import Reading, reading


@dataclass(frozen=True)
class Lens(Recovered):
    """What the layers inside know; `after` and the measures are those of the layer with the lowest mean loss, one for all texts.

    Attributes:
        by_layer: The mean loss of the texts read from each layer, L + 1 of them, in nats; the last is the model's own.
        layer: The layer with the lowest, from 0 to L; the first of equal ones.
    """

    by_layer: tuple[float, ...] = ()
    layer: int = 0


def logit_lens(
    model: Any,
    examples: Sequence[Example],
    *,
    known: float | None = None,
    unseen: float | None = None,
    batch_size: int = 32,
) -> Lens:
    """What the layers inside a model know of some forget texts; see the formula above.

    Args:
        model: A causal language model of an architecture in `models/layers.py`; it is left as it is.
        examples: The forget texts.
        known, unseen: The texts' mean loss in the original and in a retrained model, as they are; see `Recovered`.
        batch_size: Sequences in a forward pass.

    Raises:
        InputError: As `read_layers`.
        NumericsError: As `read_layers`.

    Cost: as of `read_layers`.
    """
    found = read_layers(model, examples, batch_size=batch_size)
    by_layer = [one.loss for one in found]
    layer = min(range(len(found)), key=by_layer.__getitem__)
    fields = compared(found[-1], found[layer])
    return Lens(
        "logit lens", {"layers": len(found) - 1}, **fields, known=known, unseen=unseen, by_layer=tuple(by_layer), layer=layer
    )


def read_layers(model: Any, examples: Sequence[Example], *, prefix: float = 0.5, batch_size: int = 32) -> list[Knowledge]:
    """What is known of the texts in each layer, L + 1 of them, from what enters the first layer to the model's own logits.

    Extraction is under teacher forcing, as in `right_tokens`. For a layer inside the model it says that the layer predicts every
    token of the rest from the text before it.

    Args:
        model, examples, batch_size: As of `logit_lens`.
        prefix: As of `knowledge`.

    Raises:
        InputError: No texts; an architecture that is not known, or one that changes what its head gives (scales or caps it), so that
            the lens would not read the last layer as the model does.
        NumericsError: The model's logits are not finite.

    Cost: one forward pass, and for each layer the product of norm and head; memory for one layer's logits of a batch beside the
    model's own.
    """
    if not examples:
        raise InputError("the logit lens reads texts, and there are none; give at least one")
    found = reading(model)
    losses: list[list[Tensor]] = [[] for _ in range(len(found.layers) + 1)]
    right: list[list[Tensor]] = [[] for _ in losses]
    with evaluating(model), torch.no_grad():
        for batch in make_batches(examples, batch_size, model.device):
            for layer, logits_BTV in enumerate(_each(model, found, batch)):
                loss_B, own = of_logits(logits_BTV, batch)
                losses[layer].append(loss_B)
                right[layer] += own
    return [of_predictions(torch.cat(own), of, examples, prefix) for own, of in zip(losses, right, strict=True)]


def _each(model: Any, found: Reading, batch: Batch) -> Iterator[Tensor]:
    """The logits of a batch, `[B, T, V]`, read from one layer after the other; the last are the model's own."""
    with found.states() as states:
        own_BTV = token_logits(model, batch)
    rows = own_BTV.shape[1]
    with without_autocast():
        for state_BTH in states[:-1]:
            yield found.logits(state_BTH[:, -rows:])
        _check(found.logits(states[-1][:, -rows:]), own_BTV, batch, model)
    yield own_BTV


def _check(read_BTV: Tensor, own_BTV: Tensor, batch: Batch, model: Any) -> None:
    """Refuse a model whose logits are not what the lens reads from its last layer."""
    # what stands at padding is never used, and need not be finite
    there_BT = batch["attention_mask"] > 0
    read_NV, own_NV = (logits_BTV[:, -there_BT.shape[1] :][there_BT] for logits_BTV in (read_BTV, own_BTV))
    if not torch.isfinite(own_NV).all():
        raise NumericsError("the model's logits are not finite, so its layers say nothing; check how it was unlearned")
    slack = max(1e-4, 8 * torch.finfo(own_NV.dtype).eps) * own_NV.abs().max()
    if (read_NV - own_NV).abs().max() > slack:
        raise InputError(
            f"a {type(model).__name__} with this configuration changes what its head gives (it scales or caps it), so its layers cannot be "
            "read as the model reads its last one; the logit lens takes models whose logits are head(norm(state))"
        )
