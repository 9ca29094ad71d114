r"""Weights that are divided among the processes of `torchrun`, for a model that is larger than one card.

Inside `data_parallel(shard_weights=True)` every process keeps about 1 / N of the rows of each parameter, and the same part of whatever
has its shape: the gradient, an optimiser's state, a step. A layer is whole on a process while texts go through it and no longer; what lies
outside of the layers (embeddings, head) is one more such group. It is FSDP2 (`torch.distributed.fsdp.fully_shard`, Zhao et al. 2023,
arXiv 2304.11277) that gathers a layer before it is used and adds gradients up over the processes.

This module is the only one that knows how a part is kept: a `DTensor`, of which `own` is this process's rows and `whole` all of them.
Every process has to make the same passes, because a pass gathers the layers from all: see `Share.idle`.

In Python, in every process, with the model on the CPU at first, so that no card has to hold it:

    with data_parallel(shard_weights=True) as together:
        model, tokenizer = load_model("my-model", device="cpu")
        result = unlearn(shard(model), tokenizer, forget=..., retain=...)   # in place
        make_whole(result.model, {})
        if together.first:
            save_model(result.model, tokenizer, "unlearned")

Limits:

* Weights are in float32 or float64, and every layer owns its parameters. Adapters and the models of forms are refused, and so are
  methods that need more than passes of the whole model and K-FAC (`unlearn_lib.methods.divided`).
* While a checkpoint is read, each process has all of it in the memory of its machine. The first process has all of it there again when the
  model is written, and with it what is kept of the steps when these are.
* What K-FAC sums up of its texts, p^2 + q^2 numbers for a p x q matrix, is whole on every process until the eigenvectors are found, of
  which each process keeps its own. With EK-FAC's correction the eigenvectors and eigenvalues of all are on every process meanwhile.
* A capture takes a second backward pass, a third of a gradient, in place of the comparison with plain differentiation (`confirm`).
* Forward passes for a report are made by every process in full.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from unlearn_lib.errors import InputError
from unlearn_lib.ranks import Ranks, found_device, ranks


def shard(model: Any, device: str | torch.device = "auto") -> Any:
    """Divide a model's parameters among the processes and bring each part to the process's device, layer by layer.

    Args:
        model: A causal language model on the CPU; it is changed in place. Its decoder layers are taken to be the longest `ModuleList`.
        device: Where the parts go to, as of `data_parallel`. The processes talk by gloo on a CPU and by NCCL on GPUs.

    Returns:
        The same model; where the processes do not share weights, whole on the device.

    Raises:
        InputError: A model that cannot be divided: an adapter, no layers, weights that layers share, parameters that are single numbers,
            several number formats.
    """
    wanted = found_device(device)
    if not ranks().sharded:
        return model.to(wanted)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    layers = _layers(model)
    for p in model.parameters():
        p.data = p.data.contiguous()
    mesh = init_device_mesh(wanted.type, (ranks().size,))
    for layer in layers:
        layer.register_forward_hook(_without_views)
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for part in _parts(model):
        # losses are weighted by all texts already, so that gradients are to be added and not averaged
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
    return model


def _layers(model: Any) -> list[Any]:
    if hasattr(model, "peft_config"):
        raise InputError(
            "the weights of an adapter and its base cannot be divided among processes; merge it, or leave out --shard-weights"
        )
    lists = [list[Any](module) for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module)]
    if not lists:
        raise InputError(
            f"a {type(model).__name__} has no list of layers, by which its weights could be divided among processes"
        )
    layers = max(lists, key=len)
    inside = {module for layer in layers for module in layer.modules()}
    owners = Counter(p for layer in layers for p in layer.parameters())
    outside = {p for module in model.modules() if module not in inside for p in module.parameters(recurse=False)}
    for name, p in model.named_parameters():
        if owners[p] + (p in outside) > 1:
            raise InputError(
                f"parameter {name} belongs to several layers, so that it cannot be divided among processes with one of them"
            )
        if p.ndim == 0:
            raise InputError(f"parameter {name} is a single number, which cannot be divided among processes")
    if (
        len(found := {p.dtype for p in model.parameters()}) > 1
        or min(dtype.itemsize for dtype in found) < torch.float32.itemsize
    ):
        raise InputError(
            "parameters in several number formats, or in 16 bits, cannot be divided; load the model with dtype='float32'"
        )
    return layers


def gathered_bytes(model: Any) -> int:
    """Bytes of what a process has whole while texts go through a divided model, beside its parts: what lies outside of the layers and its
    gradient; of the largest layer the weights, what they arrive in, those of the next one, the gradient, and what it is sent in.

    Raises:
        InputError: As `shard`.
    """
    layers: list[int] = [sum(p.numel() * p.element_size() for p in layer.parameters()) for layer in _layers(model)]
    every: int = sum(p.numel() * p.element_size() for p in model.parameters())
    return 2 * (every - sum(layers)) + 5 * max(layers)


def _parts(model: Any) -> Iterator[Any]:
    """The modules whose parameters are gathered together, from the outermost on."""
    from torch.distributed.fsdp import FSDPModule

    return (module for module in model.modules() if isinstance(module, FSDPModule))


def _without_views(_: Any, __: Any, out: Any) -> Any:
    """What leaves a layer, of which nothing is a view: FSDP gathers a layer for its backward pass by a hook on these tensors, which is lost
    where a model goes on in place on a view."""
    from torch.utils._pytree import tree_map

    return tree_map(lambda t: torch.ops.aten._unsafe_view(t, t.shape) if isinstance(t, Tensor) and t._is_view() else t, out)


def divided(x: Any) -> bool:
    """Whether a tensor, the tensors of a vector, or the parameters of a model are divided among processes."""
    if isinstance(x, torch.nn.Module):
        x = next(x.parameters(), None)
    elif isinstance(x, Mapping):
        x = next(iter(x.values()), None)
    return hasattr(x, "device_mesh")


def own(t: Tensor) -> Tensor:
    """This process's rows of a tensor; all of them where it is not divided."""
    return t.detach().to_local() if divided(t) else t  # type: ignore[attr-defined]


def whole(t: Tensor) -> Tensor:
    """All rows of a tensor, on every process. Where it is divided, all processes have to ask for it together."""
    return t.detach().full_tensor() if divided(t) else t  # type: ignore[attr-defined]


def part(all_rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `whole`: a tensor that every process has, divided as `like` is."""
    if not divided(like):
        return all_rows
    from torch.distributed.tensor import distribute_tensor

    there: Any = like
    found = distribute_tensor(all_rows.to(there.device), there.device_mesh, there.placements, src_data_rank=None)
    return found.clone()  # which is no view of all rows


def over_parts(number: float, like: Tensor | Mapping[str, Tensor] | None) -> float:
    """A number that is a sum over entries, of this process's rows, added up over all rows."""
    if not divided(like):
        return number
    first: Any = next(iter(like.values())) if isinstance(like, Mapping) else like
    return Ranks(dist.get_rank(), dist.get_world_size()).add_number(number, first.device)


def seen(model: Any) -> dict[str, Tensor]:
    """The parameters of a divided model as its forward passes see them, by name: whole, and without contents outside of a pass.

    They are the same objects in every pass, so that a pass can be watched by them. Cost: every layer is gathered once.
    """
    found: dict[str, Tensor] = {}
    for module in _parts(model):
        module.unshard()
        found |= {name: p for name, p in model.named_parameters() if not divided(p)}
        module.reshard()
    return {name: found[name] for name, _ in model.named_parameters()}


def on_first(t: Tensor) -> Tensor:
    """All rows of a divided tensor on the CPU of the first process, and none on the others, which have to ask together with it; what is
    not divided as it is."""
    if not divided(t):
        return t
    found = whole(t)
    return found.cpu() if ranks().first else found.new_empty(0, device="cpu")


def make_whole(model: Any, formats: Mapping[str, torch.dtype]) -> None:
    """Turn a divided model into one that can be saved: whole and on the CPU in the first process, and without contents in the others.

    Args:
        model: All processes have to ask together. One tensor after the other is gathered. No text can go through the model after.
        formats: The number format of each parameter by name; its own where it is not named.
    """
    known: dict[int, torch.nn.Parameter] = {}  # a tied weight has several names
    for name, p in list(model.named_parameters(remove_duplicate=False)):
        if id(p) not in known:
            known[id(p)] = torch.nn.Parameter(on_first(p).to(formats.get(name, p.dtype)), p.requires_grad)
        outer, _, own_name = name.rpartition(".")
        setattr(model.get_submodule(outer), own_name, known[id(p)])
