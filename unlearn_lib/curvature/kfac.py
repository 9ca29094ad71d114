r"""K-FAC with the EK-FAC correction: the Gauss-Newton matrix, one Kronecker product for each weight matrix, diagonal in its eigenvectors.

With labels y_t drawn from the model, h_i = sum_t (1 / n T_i)^(1/2) grad(-log p(y_t)) has E sum_i h_i h_i^T = Gauss-Newton
matrix, exactly. A weight matrix's h_i is sum_t left_it right_it^T, a sum over its positions (and over its uses, where it is
tied). K-FAC (Martens and Grosse 2015; Eschenhagen et al. 2023, "expand") takes

    L = sum left left^T = U_L diag(l) U_L^T,    R = sum right right^T = U_R diag(r) U_R^T,    block = L (x) R / N,   N positions

(of a tied weight the sum over its uses, in the eigenvectors of its partial traces);
EK-FAC (George et al. 2018) keeps the eigenvectors and measures the diagonal in them: Lambda = sum_i (U_L^T h_i U_R)^2, the
best one in the Frobenius norm. Shape suffixes: B sequences, T positions, p x q a parameter, r some of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.curvature.capture import capture
from unlearn_lib.curvature.confirm import Witness, due, row_of
from unlearn_lib.curvature.per_sequence import CHUNK_NUMBERS
from unlearn_lib.curvature.precision import exact_products
from unlearn_lib.curvature.risk import EmpiricalRisk, token_weights
from unlearn_lib.curvature.uses import Direct, Lookup, Outer, Use, as_matrix, materialise
from unlearn_lib.curvature.vector import Vector, flatten
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.losses import IGNORED, Batch, token_nll


@dataclass(frozen=True)
class Eigen:
    """One parameter's block: U_L (x) U_R diag(values_pq) of it; None stands for the identity."""

    left_pp: Tensor | None
    right_qq: Tensor | None
    values_pq: Tensor

    def apply(self, v: Tensor, values_pq: Tensor) -> Tensor:
        """The block with other eigenvalues, times v."""
        v_pq = as_matrix(v)
        if self.left_pp is not None:
            v_pq = self.left_pp.T @ v_pq
        if self.right_qq is not None:
            v_pq = v_pq @ self.right_qq
        v_pq = v_pq * values_pq
        if self.left_pp is not None:
            v_pq = self.left_pp @ v_pq
        if self.right_qq is not None:
            v_pq = v_pq @ self.right_qq.T
        return v_pq.view_as(v)

    def diagonal(self) -> Tensor:
        """`[p, q]`"""
        values_pq = self.values_pq
        if self.left_pp is not None:
            values_pq = self.left_pp.square() @ values_pq
        if self.right_qq is not None:
            values_pq = values_pq @ self.right_qq.square().T
        return values_pq


class KFAC(EmpiricalRisk):
    """Block-diagonal approximation of `GaussNewton`, positive semi-definite, ready to invert (`solver="kfac"`).

    What meets the text in a matrix product or an embedding gets a Kronecker block: Linear, Conv1D, embeddings, a tied head
    with both of its uses added. A side longer than `max_side` (a vocabulary) keeps the identity as its eigenvectors.
    Everything else (biases, norms, scales; `left_out`) gets the diagonal of the same matrix.

    Args:
        model, batches, params, precision: As of every operator over sequences.
        correction: EK-FAC's eigenvalues (default) or K-FAC's.
        samples: Draws of the labels.
        seed: Of the draws.
        max_side: Longest side that is decomposed, d^3 FLOPs.

    Cost, once, at the first product: 2/3 gradient and the second moments for each draw, as much again for the correction, and
    the eigenvectors in float64. A product: 4 p q (p + q) FLOPs for each matrix. Memory: p^2 + q^2 + p q for each, and one
    batch's factors while it is built.
    """

    default_solver = "kfac"

    def __init__(
        self,
        model: Any,
        batches: Sequence[Batch],
        params: str | Sequence[str] | None = None,
        *,
        precision: str | None = None,
        correction: bool = True,
        samples: int = 1,
        seed: int = 0,
        max_side: int = 4096,
    ) -> None:
        super().__init__(model, batches, params, precision=precision)
        if samples < 1:
            raise InputError(f"samples must be at least 1, got {samples}")
        self.correction, self.samples, self.seed, self.max_side = correction, samples, seed, max_side
        self._eigen: dict[str, Eigen] | None = None

    @torch.no_grad()
    def mv(self, v: Vector) -> Vector:
        return {name: e.apply(v[name], e.values_pq) for name, e in self.eigen().items()}

    def diagonal(self) -> Tensor:
        return flatten({name: e.diagonal() for name, e in self.eigen().items()})

    @property
    def left_out(self) -> list[str]:
        """Names of the parameters that have a diagonal and no Kronecker block."""
        return [name for name, e in self.eigen().items() if e.left_pp is None and e.right_qq is None]

    def eigen(self) -> dict[str, Eigen]:
        """Every parameter's block in its eigenvectors, built at the first call."""
        if self._eigen is None:
            with torch.no_grad(), exact_products():
                self._eigen = self._build()
        return self._eigen

    def _build(self) -> dict[str, Eigen]:
        moments: dict[str, _Moments] = {}
        for uses_by_name, heard_BT in self._draws():
            for name, uses in uses_by_name.items():
                moments.setdefault(name, _Moments(self.params[name], self.max_side)).add(uses, heard_BT)
        eigen = {name: moment.eigen() for name, moment in moments.items()}
        if not self.correction:
            return eigen
        for e in eigen.values():
            e.values_pq.zero_()
        for uses_by_name, _ in self._draws():
            for name, uses in uses_by_name.items():
                e = eigen[name]
                rotated = [_rotate(use, e) for use in uses]
                rows = max(1, CHUNK_NUMBERS["cpu"] // max(1, e.values_pq.shape[1] * len(rotated[0].tensors[0])))
                for start in range(0, len(e.values_pq), rows):
                    stop = min(start + rows, len(e.values_pq))
                    e.values_pq[start:stop] += materialise(rotated, start, stop).square().sum(0)
        return eigen

    def _draws(self) -> Iterator[tuple[dict[str, list[Use]], Tensor]]:
        """The uses of h_i and the positions that count, batch after batch, draw after draw; the same at every call."""
        unconfirmed = due(self)
        for draw in range(self.samples):
            # one stream of numbers for all sequences, in their order: how they are cut into batches does not matter
            generator = torch.Generator(self.device).manual_seed((self.seed * 1_000_003 + draw) % 2**63)
            for number, batch in enumerate(self.batches):
                B, T = batch["input_ids"].shape
                labels = _Labels(generator)
                _, uses = capture(self._pseudo_losses(batch, labels.draw), self.params, self.fixed, (B, T))
                if number == unconfirmed and labels.drawn_BS is not None:
                    self._confirm(number, uses, labels.drawn_BS)
                    unconfirmed = None
                heard_BT = _heard(batch).to(self.dtype)
                yield {name: [_mask(use, heard_BT) for use in found] for name, found in uses.items()}, heard_BT

    def _confirm(self, number: int, uses: dict[str, list[Use]], drawn_BS: Tensor) -> None:
        """Compare the first capture of a class of model with plain differentiation, for the labels that were drawn."""
        batch = self.batches[number]

        def alone(i: int) -> Callable[[Vector], Tensor]:
            return self._pseudo_losses(row_of(batch, i), lambda *_: drawn_BS[i : i + 1])

        Witness(self, number, alone, self._pseudo_losses(batch, lambda *_: drawn_BS)).confirm(uses)

    def _pseudo_losses(self, batch: Batch, draw: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Vector], Tensor]:
        logits = self.logits(batch)

        def losses(params: Vector) -> Tensor:
            z_BTV = logits(params)
            if not torch.isfinite(z_BTV).all():
                raise NumericsError("the model's logits are not finite: there are no labels to draw; it has diverged")
            weights_BS = token_weights(z_BTV, batch, self.sequences * self.samples).to(self.dtype).sqrt()
            drawn_BS = draw(z_BTV[:, :-1].detach(), weights_BS > 0)
            nll_BS, _ = token_nll(z_BTV, torch.nn.functional.pad(drawn_BS, (1, 0)))
            return (nll_BS * weights_BS).sum(1)

        return losses


def draw_labels(z_BSV: Tensor, scored_BS: Tensor, generator: torch.Generator) -> Tensor:
    """`[B, S]`: labels drawn from the softmax at the scored positions, and 0 at the others.

    The label with the largest p / q, where the q are exponentially distributed, is distributed as p (the exponential race, or
    Gumbel's trick). Each sequence takes its own [scored, V] numbers from the generator, so that neither padding nor the other
    sequences of its batch change what it draws. Rounding in p moves a label only where the first two of the race are that
    close, once in about 1 / eps draws; in the inverse of the cumulative distribution it would be V times as often.
    """
    drawn_BS = torch.zeros_like(scored_BS, dtype=torch.long)
    for z_SV, scored_S, drawn_S in zip(z_BSV, scored_BS, drawn_BS, strict=True):
        p_SV = z_SV[scored_S].softmax(-1)
        drawn_S[scored_S] = (p_SV / torch.empty_like(p_SV).exponential_(generator=generator)).argmax(-1)
    return drawn_BS


class _Labels:
    """A batch's labels, drawn from the model's predictions once: a capture that has to run the model again finds the same."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator
        self.drawn_BS: Tensor | None = None

    def draw(self, z_BSV: Tensor, scored_BS: Tensor) -> Tensor:
        """`[B, S]`"""
        if self.drawn_BS is None:
            self.drawn_BS = draw_labels(z_BSV, scored_BS, self.generator)
        return self.drawn_BS


class _Moments:
    """Of one parameter: L_u and R_u of each of its uses u, in float64; or the diagonal of its entries, where it has no sides.

    A side that is too long, or a row that is looked up, has the diagonal of its moment only.
    """

    def __init__(self, like: Tensor, max_side: int) -> None:
        self.like, self.max_side = like, max_side
        self.sides: dict[tuple[int, int], Tensor] = {}  # (use, side) -> moment
        self.positions = 0.0
        self.entries: Tensor | None = None

    def add(self, uses: Sequence[Use], heard_BT: Tensor) -> None:
        factored = [use for use in uses if not isinstance(use, Direct)]
        if len(factored) < len(uses):
            part = materialise(uses, 0, len(as_matrix(self.like))).double().square().sum(0)
            self.entries = part if self.entries is None else self.entries + part
            return
        heard = _for_positions(heard_BT, factored[0])
        self.positions += float(heard.sum()) / max(1, heard.shape[1] // heard_BT.shape[1])  # of the text or of virtual tokens
        for number, use in enumerate(factored):
            if isinstance(use, Lookup):
                heard = _for_positions(heard_BT, use)
                left = torch.bincount(use.ids_BT.flatten(), heard.flatten().double(), minlength=use.rows)
            else:
                left = self._moment(use.left_BTp)
            for side, moment in enumerate((left, self._moment(use.right_BTq))):
                self.sides[number, side] = self.sides.get((number, side), 0) + moment

    def _moment(self, x_BTs: Tensor) -> Tensor:
        if x_BTs.shape[-1] > self.max_side:
            return x_BTs.double().square().sum((0, 1))
        # in float64, since tokens that are as frequent have nearly equal eigenvalues, whose eigenvectors turn with the rounding
        x = x_BTs.flatten(0, 1).double()
        return x.T @ x

    def eigen(self) -> Eigen:
        """K-FAC's block sum_u L_u (x) R_u / N: eigenvectors of its partial traces, and its diagonal in them (one use: eigenvalues)."""
        if self.entries is not None:
            return Eigen(None, None, self.entries.to(self.like))
        numbers = range(len(self.sides) // 2)
        vectors = [
            self._vectors(side, [(self.sides[u, side], _trace(self.sides[u, 1 - side])) for u in numbers]) for side in (0, 1)
        ]
        values_pq = sum(
            (_in(vectors[0], self.sides[u, 0]).outer(_in(vectors[1], self.sides[u, 1])) for u in numbers),
            start=torch.zeros((), dtype=torch.float64, device=self.like.device),
        )
        left, right = (None if U is None else U.to(self.like) for U in vectors)
        return Eigen(left, right, (values_pq / self.positions).clamp_min(0).to(self.like))

    def _vectors(self, side: int, weighted: list[tuple[Tensor, float]]) -> Tensor | None:
        if all(moment.ndim == 1 for moment, _ in weighted) or as_matrix(self.like).shape[side] > self.max_side:
            return None
        combined = [weight * (moment if moment.ndim == 2 else moment.diag()) for moment, weight in weighted]
        U: Tensor = torch.linalg.eigh(reduce(torch.add, combined))[1]
        return U


def _trace(moment: Tensor) -> float:
    return float(moment.sum() if moment.ndim == 1 else moment.trace())


def _in(U: Tensor | None, moment: Tensor) -> Tensor:
    """The diagonal of a moment in the basis U."""
    if U is None:
        return moment if moment.ndim == 1 else moment.diagonal()
    return moment @ U.square() if moment.ndim == 1 else (U * (moment @ U)).sum(0)


def _heard(batch: Batch) -> Tensor:
    """`[B, T]`: the positions that a loss can depend on: of the text, and with a scored token after them."""
    scored_BS = batch["labels"][:, 1:] != IGNORED
    later_BS = scored_BS.flip(1).cumsum(1).flip(1) > 0
    return torch.nn.functional.pad(later_BS, (0, 1)) & batch["attention_mask"].bool()


def _for_positions(heard_BT: Tensor, use: Outer | Lookup) -> Tensor:
    """`[B, S]` for the positions of a use: where heads and the like count as positions, each one of the text is several; virtual
    tokens stand before the text, and all of it depends on them."""
    (B, T), S = heard_BT.shape, use.right_BTq.shape[1]
    virtual = S % T
    return torch.cat([heard_BT.new_ones(B, virtual), heard_BT.repeat_interleave(S // T, dim=1)], 1)


def _mask(use: Use, heard_BT: Tensor) -> Use:
    """The use without the positions that no loss depends on: their inputs would count in one factor, and not in the other."""
    if isinstance(use, Direct):
        return use
    heard_BT1 = _for_positions(heard_BT, use).unsqueeze(-1)
    if isinstance(use, Lookup):
        return Lookup(use.ids_BT, use.right_BTq * heard_BT1, use.rows)
    return Outer(use.left_BTp * heard_BT1, use.right_BTq * heard_BT1)


def _rotate(use: Use, e: Eigen) -> Use:
    """The use in the eigenvectors: U_L^T g_i U_R."""
    if isinstance(use, Direct):
        return use
    right_BTq = use.right_BTq if e.right_qq is None else use.right_BTq @ e.right_qq
    if isinstance(use, Outer):
        return Outer(use.left_BTp if e.left_pp is None else use.left_BTp @ e.left_pp, right_BTq)
    if e.left_pp is None:
        return Lookup(use.ids_BT, right_BTq, use.rows)
    return Outer(e.left_pp[use.ids_BT], right_BTq)
