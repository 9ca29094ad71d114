r"""G, the n x P matrix of per-sequence gradients, never formed: its Gram matrix G G^T, products G v and G^T c, blocks of columns.

Kept in factored form (`keep="activations"`: input and output gradient of every product), one capture of 2/3 gradient serves
them all: G v and G^T c then cost 1/3 gradient each, and so does the Gram matrix together with one G v. `keep="gradients"`
stores G itself (n P numbers), where products cost 1/T of that. `keep="nothing"` works through the parameters in `passes`
groups, capturing anew for each, and takes G v and G^T c by automatic differentiation. The first capture of a class of model
is compared with the plain gradient of one text. Several processes keep the factors of their own sequences; what takes all rows of
some columns is done by the process that is given those columns. Shape suffixes: n sequences, B of a batch, c of this process, T
positions, p x q a parameter, r some of its rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from unlearn_lib.curvature.capture import capture
from unlearn_lib.curvature.captured import Captured, adjoint, look, project
from unlearn_lib.curvature.confirm import Witness, best_batch, due, row_of
from unlearn_lib.curvature.precision import exact_products
from unlearn_lib.curvature.risk import EmpiricalRisk
from unlearn_lib.curvature.rounding import FACTORS, rounded
from unlearn_lib.curvature.shared_rows import ghost_blocks, own_columns
from unlearn_lib.curvature.symmetric import add_lower, mirror
from unlearn_lib.curvature.uses import Direct, Use, as_matrix, in_order, materialise
from unlearn_lib.curvature.vector import Vector, all_finite, extremes, in_groups, zeros
from unlearn_lib.errors import InputError, NumericsError, unknown
from unlearn_lib.losses import Batch

KEEP = ("activations", "gradients", "nothing")
# Numbers in a block of columns of G. Short blocks are summed in float64, so small ones are also more accurate (float32, three
# times at 1 << 20 against 1 << 22); a GPU wants fewer, larger products.
CHUNK_NUMBERS = {"cpu": 1 << 20, "cuda": 1 << 24}
LEAST_ROWS = 16


class SequenceGradients:
    """The per-sequence gradients of a risk's sequences, in the order of its batches.

    Args:
        risk: An operator over sequences, usually an `EmpiricalFisher`.
        keep: What stays in memory, `"activations"`, `"gradients"` or `"nothing"`.
        passes: With `"nothing"`: into how many groups of about equal memory the parameters are divided.
        chunk: Numbers in one block of columns; default 2^20 on a CPU, 2^24 on a GPU.
        factors: The number format of the factors that are kept: `"float32"` (those of the parameters, that is), or `"bfloat16"` in
            half the memory. Each number of a factor is then rounded by a relative 2^-8 at most, by about 2^-9 in the mean, and with it
            every entry of a gradient; the products of factors are formed in float32. Gradients stored by `keep="gradients"`, and
            float64, cannot be had from rounded factors.

    Raises:
        InputError: Unknown `keep` or `factors`, passes below one, or options that do not go together.
        NumericsError: A loss or a gradient is not finite; or the factors are not the gradient, by `check`, which is done by
            itself at the first capture of a class of model and its shapes.
    """

    def __init__(
        self,
        risk: EmpiricalRisk,
        *,
        keep: str = "activations",
        passes: int = 1,
        chunk: int | None = None,
        factors: str = "float32",
    ) -> None:
        if keep not in KEEP:
            raise unknown("value of keep", keep, KEEP)
        if factors not in FACTORS:
            raise unknown("value of factors", factors, FACTORS)
        if factors == "bfloat16" and (keep == "gradients" or risk.dtype != torch.float32):
            raise InputError(
                "factors='bfloat16' halves the memory of kept factors in float32; leave out keep='gradients', which keeps none, and "
                "precision='float64', whose digits would be lost"
            )
        if passes < 1 or (passes > 1 and keep != "nothing"):
            raise InputError(f"passes={passes} needs keep='nothing' and at least one pass")
        self.risk, self.keep, self.passes, self.factors = risk, keep, passes, factors
        self.chunk = chunk or CHUNK_NUMBERS.get(risk.device.type, CHUNK_NUMBERS["cpu"])
        self.n = risk.sequences
        self._kept: dict[str, Captured] | None = None
        self._witness: Witness | None = None

    def gram(self, v: Vector | None = None) -> tuple[Tensor, Tensor | None]:
        """`(K_nn, w_n)`: G G^T and, if v is given, G v, both float64.

        Every parameter's part is one product of blocks of columns, or goes through ghost inner products where these need
        fewer FLOPs (short texts). Of either the lower half is formed. Cost: 2/3 gradient for each capture that is still to do, and
        1/3 + n / 6T gradients, T tokens a sequence (below 128 sequences, which are one panel of `symmetric`, 1/3 + n / 3T).
        """
        device, ranks, share = self.risk.device, self.risk.ranks, self.risk.share
        K_nn = torch.zeros(self.n, self.n, dtype=torch.float64, device=device)
        w_n = None if v is None else torch.zeros(self.n, dtype=torch.float64, device=device)
        with torch.no_grad(), exact_products():
            for captured in self._groups():
                cheaper = self._ghost_is_cheaper(captured)
                for name, batches in captured.items():
                    v_pq = None if v is None else as_matrix(v[name])
                    if name in cheaper:
                        for rows, columns, part in ghost_blocks(batches, self.risk.params[name], ranks, share):
                            K_nn[rows, columns] += part
                        if w_n is not None and v_pq is not None:
                            w_n[share.own] += project(batches, v_pq).double()
                        continue
                    for start, stop, g_nrq in self._columns(name, batches):
                        g_nc = g_nrq.flatten(1)
                        add_lower(K_nn, g_nc)
                        if w_n is not None and v_pq is not None:
                            w_n += g_nc @ v_pq[start:stop].reshape(-1)
        for found in (K_nn, w_n):
            if found is not None:
                ranks.add_tensor(found)
        _check_finite([mirror(K_nn)])
        return K_nn, w_n

    def project(self, v: Vector) -> Tensor:
        """`[n]`, float64: G v."""
        if self.keep == "nothing":
            return self.risk.project(v).double()
        with torch.no_grad(), exact_products():
            own = torch.stack([project(batches, as_matrix(v[name])).double() for name, batches in self._all().items()]).sum(0)
            return self.risk.ranks.gather(own, self.risk.share)

    def adjoint(self, c_n: Tensor) -> Vector:
        """G^T c, in the parameters' format."""
        if self.keep == "nothing":
            return self.risk.adjoint(c_n)
        own = c_n[self.risk.share.own].to(self.risk.device, self.risk.dtype)
        with torch.no_grad(), exact_products():
            return self.risk.ranks.add(
                {name: adjoint(batches, own, self.risk.params[name]) for name, batches in self._all().items()}
            )

    def blocks(self, multiple: int = 1) -> Iterator[tuple[str, int, Tensor]]:
        """Blocks of columns of G: `(name, start, g_nc)`, with `start` the position in the flattened parameter.

        Blocks cover every parameter from left to right; their widths are multiples of `multiple`, except the last of each
        parameter. Of several processes every one is given other blocks, with the rows of all sequences. Whether they are finite is
        asked once, after the last. Cost: 2/3 gradient for each capture that is still to do, and 1/3 gradient.
        """
        seen = list[Tensor]()
        for captured in self._groups():
            for name, batches in captured.items():
                q = as_matrix(self.risk.params[name]).shape[1]
                for start, _, g_nrq in self._columns(name, batches, multiple // math.gcd(multiple, q)):
                    seen.append(extremes(g_nrq))
                    yield name, start * q, g_nrq.flatten(1)
        _check_finite(seen)

    def norms(self) -> Tensor:
        """`[n]`, float64: the Euclidean length of every sequence's gradient in all parameters together. Cost: as `blocks`."""
        squares_n = torch.zeros(self.n, dtype=torch.float64, device=self.risk.device)
        for _, _, g_nc in self.blocks():
            squares_n += g_nc.double().square().sum(1)
        return self.risk.ranks.add_tensor(squares_n).sqrt()

    def squares(self) -> Vector:
        """sum_i g_i^2, entry by entry. Cost: as `blocks`."""
        found = zeros(self.risk.params)
        for name, start, g_nc in self.blocks():
            found[name].view(-1)[start : start + g_nc.shape[1]] = g_nc.square().sum(0)
        return self.risk.ranks.add(found)

    def matrix(self) -> Tensor:
        """`[n, P]`: G itself, in every process, for small problems and for the recursion. Cost: as `blocks`."""
        own = [
            g_crq.flatten(1)
            for captured in self._groups()
            for name, batches in captured.items()
            for _, _, g_crq in self._blocks(name, batches)
        ]
        g_nP = self.risk.ranks.gather(torch.cat(own, dim=1), self.risk.share)
        _check_finite([g_nP])
        return g_nP

    def check(self) -> float:
        """How far these factors are from the plain gradient of one text alone: the largest relative difference of a parameter.

        An independent test of an architecture never seen before. Cost: 2/3 gradient of one text, and the capture if it is still
        to do.
        """
        batches = self.risk.share.batches
        witness = self._new_witness(best_batch(batches)) if batches else None
        found = [
            0.0
            if witness is None
            else max(witness.differences({name: of[witness.number] for name, of in captured.items()}).values())
            for captured in self._groups()
        ]
        worst: float = max(self.risk.ranks.told(max(found)))
        return worst

    def _new_witness(self, number: int) -> Witness:
        risk, batch = self.risk, self.risk.share.batches[number]
        return Witness(risk, number, lambda i: risk.losses(row_of(batch, i)), risk.losses(batch))

    def _all(self) -> dict[str, Captured]:
        if self._kept is None:
            self._kept = self._capture(self.risk.params)
            if self.keep == "gradients":
                with torch.no_grad(), exact_products():
                    for name, batches in self._kept.items():  # parameter by parameter, so that factors and rows overlap little
                        p = len(as_matrix(self.risk.params[name]))
                        batches[:] = [[Direct(materialise(uses, 0, p).contiguous())] for uses in batches]
        return self._kept

    def _groups(self) -> Iterator[dict[str, Captured]]:
        if self.keep != "nothing":
            yield self._all()
            return
        for group in groups(self.risk.params, self.passes):
            captured = self._capture({name: self.risk.params[name] for name in group})
            yield captured
            for batches in captured.values():  # the caller's loop still holds them while the next group is captured
                batches.clear()

    def _capture(self, params: Vector) -> dict[str, Captured]:
        fixed = {**self.risk.fixed, **{name: p for name, p in self.risk.params.items() if name not in params}}
        captured: dict[str, Captured] = {name: [] for name in params}
        losses = list[Tensor]()
        number = due(self.risk)
        if number is not None and self._witness is None:
            self._witness = self._new_witness(number)
        with exact_products():
            for i, batch in enumerate(self.risk.share.batches):
                losses_B, found = _capture_batch(self.risk, batch, params, fixed)
                losses.append(losses_B)
                if number == i and self._witness is not None:
                    _check_losses(losses)
                    self._witness.confirm(found)
                for name, uses in (found if self.factors == "float32" else rounded(found)).items():
                    captured[name].append(uses)
                del found
        if not any(isinstance(losses_B, FakeTensor) for losses_B in losses):  # a plan's rehearsal has shapes alone
            _check_losses(losses)
            in_order(uses for batches in captured.values() for uses in batches)
        return captured

    def _columns(self, name: str, batches: Captured, multiple: int = 1) -> Iterator[tuple[int, int, Tensor]]:
        """Rows start to stop of a parameter's gradients, `[n, r, q]`: those of them that this process is given."""
        own, ranks = self._blocks(name, batches, multiple), self.risk.ranks
        return own if ranks.size == 1 else own_columns(own, self.n, ranks, self._counts)

    @cached_property
    def _counts(self) -> list[int]:
        """How many sequences every process has."""
        return self.risk.ranks.told(self.risk.share.own.stop - self.risk.share.own.start)

    def _blocks(self, name: str, batches: Captured, multiple: int = 1) -> Iterator[tuple[int, int, Tensor]]:
        """Rows start to stop of a parameter's gradients for this process's sequences, `[c, r, q]`, as many at a time as `chunk` allows."""
        param = self.risk.params[name]
        (p, q), rows = as_matrix(param).shape, max(multiple, self.rows_at_once(param) // multiple * multiple)
        for start in range(0, p, rows):
            stop = min(start + rows, p)
            with torch.no_grad(), exact_products():  # not around the yield, where they would reach the caller
                pieces = [materialise(uses, start, stop) for uses in batches] or [param.new_zeros(0, stop - start, q)]
                block = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
            del pieces
            yield start, stop, block

    def rows_at_once(self, param: Tensor) -> int:
        """How many rows of a parameter seen as `[p, q]` one block of columns holds."""
        return max(LEAST_ROWS, self.chunk // (self.n * as_matrix(param).shape[1]))

    def _ghost_is_cheaper(self, captured: Mapping[str, Captured]) -> set[str]:
        """The parameters whose inner products take fewer FLOPs than their gradients."""
        looks = self.risk.ranks.told({name: look(batches) for name, batches in captured.items()})
        return {
            name for name, p in self.risk.params.items() if name in captured and self._cheaper(p, [one[name] for one in looks])
        }

    def _cheaper(self, param: Tensor, looks: Sequence[tuple[int, bool, bool]]) -> bool:
        p, q = as_matrix(param).shape
        tokens, outer, direct = sum(look[0] for look in looks), any(look[1] for look in looks), any(look[2] for look in looks)
        # looking rows up costs no product; both ways form or need the products with v
        return not direct and tokens**2 * ((p if outer else 1) + q) < self.n**2 * p * q


def _check_finite(gradients: Iterable[Tensor]) -> None:
    if not all_finite(gradients):
        raise NumericsError(
            "a per-sequence gradient is not finite; the model has diverged, or its number format is too narrow (precision='float64')"
        )


def groups(params: Vector, passes: int) -> list[list[str]]:
    """The parameters in at most `passes` groups, in order, with about equally large factors."""
    factors = {name: sum(as_matrix(p).shape) for name, p in params.items()}  # numbers in its factors, for each token
    return in_groups(factors, passes)


def _capture_batch(
    risk: EmpiricalRisk, batch: Batch, params: Vector, fixed: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, list[Use]]]:
    # the risk's function takes all of its parameters; those not followed here are closed over
    rest = {name: p for name, p in risk.params.items() if name not in params}
    losses = risk.losses(batch)
    B, T = batch["input_ids"].shape
    return capture(lambda chosen: losses({**rest, **chosen}), params, fixed, (B, T))


def _check_losses(losses: Iterable[Tensor]) -> None:
    if not all_finite(losses):
        raise NumericsError(
            "the loss of a sequence is not finite; the model has diverged, or its number format is too narrow (dtype='float32')"
        )
