r"""Bottleneck layers after the attention and the feed-forward blocks of a causal language model.

    h  ->  h + U a(V h + v) + u          V  [bottleneck, width], U  [width, bottleneck]

U and u are zero at first, so that a layer that was never trained changes nothing. A layer is a submodule of the block that it
follows, and a hook of that block applies it: no parameter of the model gets another name. A model may have several stages of layers,
one after the other; every stage has one layer at each place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from unlearn_lib.errors import InputError

ATTRIBUTE = "unlearning"
"""Under this name a block holds its layers, one of each stage."""
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "silu": functional.silu,
}
ATTENTION = re.compile("attention", re.IGNORECASE)
FEED_FORWARD = re.compile(r"mlp|feed_?forward|ffn|moe", re.IGNORECASE)
LAST_OF_FEED_FORWARD = "fc2"
"""Where a decoder layer holds the matrices of its feed-forward block itself (OPT, BioGPT, XGLM): the name of the last one."""


class Shape(BaseModel):
    """What the layers of one stage are like.

    Attributes:
        bottleneck: Units between the two projections.
        activation: The nonlinearity a.
        after: Which blocks they follow.
        seed: Seeds the first values of V: normal with the variance 1 / width. Everything else is zero at first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    bottleneck: int = Field(64, ge=1)
    activation: Literal["relu", "gelu", "silu"] = "relu"
    after: Literal["both", "attention", "feed-forward"] = "both"
    seed: int = 0


class Bottleneck(nn.Module):
    """One layer. It computes in its own number format, and gives what it was given in the format that it came in."""

    def __init__(self, width: int, shape: Shape, generator: torch.Generator) -> None:
        super().__init__()
        self.activation, self.awake = shape.activation, True
        self.down, self.up = (
            nn.utils.skip_init(nn.Linear, *sides) for sides in ((width, shape.bottleneck), (shape.bottleneck, width))
        )
        with torch.no_grad():
            # drawn in float64 on the CPU, so that a seed means the same in every format and on every device
            drawn = torch.randn(shape.bottleneck, width, generator=generator, dtype=torch.float64)
            self.down.weight.copy_(drawn / width**0.5)
            for zero in (self.down.bias, self.up.weight, self.up.bias):
                zero.zero_()

    def forward(self, hidden: Tensor) -> Tensor:
        """`[..., width]` in, the same out."""
        units = ACTIVATIONS[self.activation](self.down(hidden.to(self.down.weight.dtype)))
        change: Tensor = self.up(units)
        return hidden + change.to(hidden.dtype)


def insert(model: Any, shape: Shape) -> None:
    """Give a model one more stage of layers, in place: trainable ones, in float32 or the format of their block if that is wider.

    Raises:
        InputError: The blocks cannot be found.
    """
    width = _width(model)
    generator = torch.Generator().manual_seed(shape.seed)
    for block in blocks(model, shape.after):
        like = next(block.parameters())
        layer = Bottleneck(width, shape, generator)
        layer.to(like.device, torch.promote_types(like.dtype, torch.float32)).eval()
        if not hasattr(block, ATTRIBUTE):
            setattr(block, ATTRIBUTE, nn.ModuleList())
            block.register_forward_hook(_through)
        getattr(block, ATTRIBUTE).append(layer)


def remove(model: Any) -> None:
    """Take all layers of all stages out of a model, in place."""
    for block in [block for block in model.modules() if hasattr(block, ATTRIBUTE)]:
        delattr(block, ATTRIBUTE)
        for number in [number for number, hook in block._forward_hooks.items() if hook is _through]:
            del block._forward_hooks[number]


def layers(model: Any, stage: int) -> dict[str, Bottleneck]:
    """The layers of one stage by their names in the model, in order; -1 is the last stage."""
    names = {id(module): name for name, module in model.named_modules() if isinstance(module, Bottleneck)}
    found = [getattr(block, ATTRIBUTE)[stage] for block in model.modules() if hasattr(block, ATTRIBUTE)]
    return {names[id(layer)]: layer for layer in found}


def is_part(name: str) -> bool:
    """Whether the parameter of this name belongs to a layer, and not to the model that the layers were put in."""
    return f".{ATTRIBUTE}." in name


@contextmanager
def asleep(model: Any) -> Iterator[None]:
    """Inside, the layers of the last stage do nothing: the model is the one that they were put in."""
    resting = list(layers(model, -1).values())
    for layer in resting:
        layer.awake = False
    try:
        yield
    finally:
        for layer in resting:
            layer.awake = True


def blocks(model: Any, after: str = "both") -> list[nn.Module]:
    """The attention and feed-forward blocks of all decoder layers, in the order in which a text passes them.

    A decoder layer is a member of a list of layers and has one child of a class called attention. Its feed-forward block is its
    one child with matrices that is called so (mlp, ffn, moe, ...), or the last matrix (fc2) where the layer holds them itself.

    Raises:
        InputError: There is not one such list, or some layer of it has no feed-forward block that can be told.
    """
    lists = [part for part in model.modules() if isinstance(part, nn.ModuleList) and any(_attention(layer) for layer in part)]
    if len(lists) != 1:
        raise InputError(
            f"the decoder layers of a {type(model).__name__} cannot be found: it has {len(lists)} lists of layers with attention blocks, "
            "and unlearning layers take a model with one; use a method that changes the weights themselves"
        )
    found = []
    for number, layer in enumerate(lists[0]):
        attention, forward = _attention(layer), _feed_forward(layer)
        if len(attention) != 1 or len(forward) != 1:
            raise InputError(
                f"decoder layer {number} of a {type(model).__name__} has {len(attention)} attention and {len(forward)} feed-forward "
                "blocks that can be told by their names, and unlearning layers take one of each; use a method that changes the weights "
                "themselves"
            )
        found += [*(attention if after != "feed-forward" else []), *(forward if after != "attention" else [])]
    return found


def _attention(layer: nn.Module) -> list[nn.Module]:
    return [child for child in layer.children() if ATTENTION.search(type(child).__name__) and _has_matrix(child)]


def _feed_forward(layer: nn.Module) -> list[nn.Module]:
    others = [(name, child) for name, child in layer.named_children() if child not in _attention(layer) and _has_matrix(child)]
    called = [child for name, child in others if FEED_FORWARD.search(f"{name} {type(child).__name__}")]
    return called or [child for name, child in others if name == LAST_OF_FEED_FORWARD]


def _has_matrix(module: nn.Module) -> bool:
    """Norms have none, whatever they are called."""
    return any(p.ndim > 1 for p in module.parameters())


def _width(model: Any) -> int:
    width = getattr(model.config.get_text_config(), "hidden_size", None)
    if not isinstance(width, int):
        raise InputError(
            f"the configuration of a {type(model).__name__} does not say how wide its hidden states are (hidden_size), which unlearning "
            "layers need to know; use a method that changes the weights themselves"
        )
    return width


def _through(block: nn.Module, _: Any, output: Any) -> Any:
    """The hook: what a block gives goes through its layers. Some blocks give more beside their hidden states, which come first."""
    hidden = output[0] if isinstance(output, tuple) else output
    for layer in getattr(block, ATTRIBUTE):
        hidden = layer(hidden) if layer.awake else hidden
    return (hidden, *output[1:]) if isinstance(output, tuple) else hidden
