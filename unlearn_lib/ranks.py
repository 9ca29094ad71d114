"""Several processes at one computation, each with a share of its texts.

All of them run the same program on the same inputs, each with a whole model (data parallelism). What sums over texts is computed
from a process's own share and added up, so that every process has the answer of one process alone, and goes on in the same way.
`torchrun` starts them, on one machine or on several:

    torchrun --nproc-per-node 4 program.py

    with data_parallel():
        result = unlearn(model, tokenizer, forget=..., retain=...)

Shape suffixes: n texts of all processes, B of a batch, c a share's own.
"""

from __future__ import annotations

import os
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from unlearn_lib.errors import InputError, RankLostError
from unlearn_lib.launched import started

Batch = Mapping[str, Tensor]
P = ParamSpec("P")
R = TypeVar("R")


BUNDLE_BYTES = 2**16
"""So much is sent at once where tensors are smaller: an exchange takes longer to begin than to send that."""
LOST = "another process of this run has ended, or cannot be reached; its own last message tells why. Start all of them again"


def _together(call: Callable[P, R]) -> Callable[P, R]:
    """An exchange between the processes, which fails in all of them where one is no longer there."""

    @wraps(call)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise RankLostError(LOST) from error

    return wrapper


@dataclass(frozen=True)
class Share:
    """A process's part of some batches.

    Attributes:
        batches: Its own batches, which may be none. A batch that lies across a border is cut there.
        own: Its texts among those of all batches, which are contiguous.
        texts: How many texts there are in all.
        before: The texts before its own, for what is drawn from one stream of numbers.
        idle: What goes through the model without effect, one text a time, so that this process makes as many passes as every other.
            None where every process has the whole model.
    """

    batches: list[Batch]
    own: slice
    texts: int
    before: list[Batch] = field(default_factory=list)
    idle: list[Batch] = field(default_factory=list)


@dataclass(frozen=True)
class Ranks:
    """The processes of a computation, as one of them sees them.

    Attributes:
        rank: The number of this one, from 0.
        size: How many there are.
        sharded: Whether each has a part of the weights only (`unlearn_lib.shards`).
    """

    rank: int = 0
    size: int = 1
    sharded: bool = False

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    def share(self, batches: Sequence[Batch]) -> Share:
        """This process's part of the texts of some batches: about as many positions, padding included, as every other's."""
        shapes = [tuple(batch["input_ids"].shape) for batch in batches]
        positions, texts = sum(B * T for B, T in shapes), sum(B for B, _ in shapes)
        if self.size == 1:
            return Share(list(batches), slice(0, texts), texts)
        own, before, seen, passes = list[Batch](), list[Batch](), 0, Counter[int]()
        for batch, (B, T) in zip(batches, shapes, strict=True):
            # a text is the process's in whose part of all positions its middle lies
            owners = [self.size * (2 * (seen + row * T) + T) // (2 * positions) for row in range(B)]
            first, stop = bisect_left(owners, self.rank), bisect_right(owners, self.rank)
            passes.update(set(owners))
            before += _rows(batch, 0, first)
            own += _rows(batch, first, stop)
            seen += B * T
        start, count = (sum(len(batch["input_ids"]) for batch in some) for some in (before, own))
        missing = max(passes.values(), default=0) - len(own) if self.sharded else 0
        return Share(own, slice(start, start + count), texts, before, _rows(batches[0], 0, 1) * missing)

    def add(self, vector: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sum of every process's vector, in place."""
        self.add_tensors(vector.values())
        return vector

    def add_tensors(self, tensors: Iterable[Tensor]) -> None:
        """The sums of every process's tensors, in place; small ones are sent together, because each exchange is waited for."""
        if self.size == 1:
            return
        for together in _bundles(tensors):
            if len(together) == 1:
                self.add_tensor(together[0])
                continue
            flat = self.add_tensor(torch.cat([tensor.reshape(-1) for tensor in together]))
            for tensor, found in zip(together, flat.split([tensor.numel() for tensor in together]), strict=True):
                tensor.copy_(found.view_as(tensor))

    @_together
    def add_tensor(self, tensor: Tensor) -> Tensor:
        """The sum of every process's tensor, in place."""
        if self.size > 1:
            if tensor.is_contiguous():
                dist.all_reduce(tensor)
            else:
                whole = tensor.contiguous()
                dist.all_reduce(whole)
                tensor.copy_(whole)
        return tensor

    def add_number(self, number: float, device: torch.device) -> float:
        """The sum of every process's number."""
        return number if self.size == 1 else float(self.add_tensor(torch.tensor(number, dtype=torch.float64, device=device)))

    def gather(self, own_c: Tensor, share: Share) -> Tensor:
        """`[n, ..]`: what all processes have found for their own texts, in the order of the texts."""
        if self.size == 1:
            return own_c
        all_n = own_c.new_zeros(share.texts, *own_c.shape[1:])
        all_n[share.own] = own_c
        return self.add_tensor(all_n)

    @_together
    def told(self, own: Any) -> list[Any]:
        """What every process has to say: plain values, not many."""
        if self.size == 1:
            return [own]
        said: list[Any] = [None] * self.size
        dist.all_gather_object(said, own)
        return said

    @_together
    def spread(self, tensor: Tensor, source: int) -> Tensor:
        """The tensor of one process, in all of them; in place."""
        if self.size > 1:
            dist.broadcast(tensor, source)
        return tensor

    @_together
    def exchange(self, pieces: Sequence[Tensor], received: Sequence[Tensor]) -> None:
        """Send piece k to process k, and fill `received` with what each has sent: contiguous, of the sizes that are sent."""
        incoming, outgoing = ([tensor.numel() for tensor in tensors] for tensors in (received, pieces))
        flat = received[0].new_empty(sum(incoming))
        dist.all_to_all_single(flat, torch.cat([piece.reshape(-1) for piece in pieces]), incoming, outgoing)
        for tensor, found in zip(received, flat.split(incoming), strict=True):
            tensor.copy_(found.view_as(tensor))

    @_together
    def wait(self) -> None:
        """Go on when all have come here."""
        if self.size > 1:
            dist.barrier()


def _bundles(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in their order, those that follow each other in one bundle where they are of one kind and in all no larger than that."""
    bundle, held = list[Tensor](), 0
    for tensor in tensors:
        alike = bundle and (tensor.dtype, tensor.device) == (bundle[0].dtype, bundle[0].device)
        if bundle and not (alike and held + tensor.nbytes <= BUNDLE_BYTES):
            yield bundle
            bundle, held = [], 0
        bundle.append(tensor)
        held += tensor.nbytes
    if bundle:
        yield bundle


def _rows(batch: Batch, start: int, stop: int) -> list[Batch]:
    return [{name: tensor[start:stop] for name, tensor in batch.items()}] if start < stop else []


ALONE = Ranks()
_ranks: ContextVar[Ranks] = ContextVar("ranks", default=ALONE)


def ranks() -> Ranks:
    """The processes that share what is computed here; one alone outside of `data_parallel`."""
    return _ranks.get()


@contextmanager
def _among(found: Ranks) -> Iterator[Ranks]:
    token = _ranks.set(found)
    try:
        yield found
    finally:
        _ranks.reset(token)


class Imagined(Ranks):
    """Processes that are not there, for a plan of what each would take: every one says the same."""

    def told(self, own: Any) -> list[Any]:
        return [own] * self.size


def planned_for(size: int, *, sharded: bool = False) -> Any:
    """A context in which plans are those of one process of so many, which may each have a part of the weights only."""
    return _among(Imagined(0, size, sharded))


def alone() -> Any:
    """A context in which this process computes by itself: all of what it is given, with no exchange."""
    return _among(ALONE)


@contextmanager
def data_parallel(device: str | torch.device = "auto", *, shard_weights: bool = False) -> Iterator[Ranks]:
    """Inside, the processes that `torchrun` has started share every sum over texts; where there is one alone, nothing changes.

    All of them have to run the same program, with the same models, texts and options, and only one should write (`Ranks.first`).
    A process group that is there already is used and left; otherwise one is made, and taken down at the end.

    Args:
        device: Where the models will be: `"auto"` is the process's own GPU (`LOCAL_RANK`) where there are GPUs, and else the CPU.
        shard_weights: Whether the model will be divided among the processes, by `unlearn_lib.shards.shard`.

    Raises:
        InputError: Several processes on a machine with fewer GPUs than that, or a GPU that is to be taken by all.
        RankLostError: One of the processes has ended before the others.
    """
    if dist.is_initialized():
        with _found(shard_weights) as found:
            yield found
        return
    if not started():
        with _among(ALONE) as found:
            yield found
        return
    wanted = found_device(device)
    cuda = wanted.type == "cuda"
    if cuda and wanted.index is not None:
        raise InputError(f"device {wanted} is one GPU, and each of several processes takes its own; leave out the number")
    if cuda:
        torch.cuda.set_device(own_gpu())
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        with _found(shard_weights) as found:
            yield found
    finally:
        dist.destroy_process_group()


@contextmanager
def _found(shard_weights: bool) -> Iterator[Ranks]:
    found = Ranks(dist.get_rank(), dist.get_world_size(), shard_weights and dist.get_world_size() > 1)
    try:
        with _among(found):
            yield found
    except RuntimeError as error:
        # a model that is divided exchanges its layers as it runs, outside of `_together`
        if found.sharded and (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise RankLostError(LOST) from error
        raise


def found_device(device: str | torch.device) -> torch.device:
    """`"auto"` is a GPU where there is one, and else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu") if str(device) == "auto" else torch.device(device)


def own_gpu() -> int:
    """The number of the GPU of this process.

    Raises:
        InputError: The machine has fewer GPUs than processes.
    """
    number, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= gpus:
        raise InputError(
            f"this is process {number + 1} of its machine, which has {gpus} GPUs; start one process a GPU (--nproc-per-node {gpus}), or "
            "take the CPU with device='cpu'"
        )
    return number


def add_gradients(params: Iterable[Tensor]) -> None:
    """Add up over the processes what `backward` has left in each; nothing where one computes alone, or where weights are divided, whose
    `backward` does it."""
    found, every = ranks(), list(params)
    if found.size == 1 or found.sharded or not every:
        return
    used = found.add_tensor(
        torch.tensor([p.grad is not None for p in every], dtype=torch.int64, device=every[0].device)
    ).tolist()
    gradients = list[Tensor]()
    for p in (p for p, times in zip(every, used, strict=True) if times):  # what no process has used has no gradient anywhere
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        gradients.append(p.grad)
    found.add_tensors(gradients)


class _Gathered(torch.autograd.Function):
    """What all processes have found for their own texts. Each differentiates what it has found itself."""

    @staticmethod
    def forward(ctx: Any, own_c: Tensor, share: Share, found: Ranks) -> Tensor:
        ctx.own = share.own
        return found.gather(own_c, share)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient_n,) = gradients
        return gradient_n[ctx.own], None, None


def text_by_text(function: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
    """`function(batch)`, `[B, ..]`, of which row i depends on text i alone, with the texts divided among the processes.

    Every process has all rows, and a graph of its own alone: a gradient that goes back through them has to be added up over the
    processes (`Ranks.add`). A process without texts takes the first one and drops the result, for its number format and shape.
    """
    found = ranks()
    if found.size == 1:
        return function(batch)
    share = found.share([batch])
    with alone():
        own_c = function(share.batches[0]) if share.batches else function(_rows(batch, 0, 1)[0])[:0]
    gathered: Tensor = _Gathered.apply(own_c, share, found)  # type: ignore[no-untyped-call]
    return gathered
