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
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.curvature.capture import capture
from unlearn_lib.curvature.confirm import Witness, due, row_of
from unlearn_lib.curvature.moments import Eigen, Moments
from unlearn_lib.curvature.per_sequence import CHUNK_NUMBERS
from unlearn_lib.curvature.positions import Positions, chosen, draw_positions, heard, mask, on_host
from unlearn_lib.curvature.precision import exact_products
from unlearn_lib.curvature.risk import EmpiricalRisk, token_weights
from unlearn_lib.curvature.shared_moments import eigen_together
from unlearn_lib.curvature.uses import Direct, Lookup, Outer, Use, materialise, orders
from unlearn_lib.curvature.vector import Vector, all_finite, extremes, flatten, numbers
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.losses import IGNORED, Batch, token_nll
from unlearn_lib.shards import divided, part, whole


class KFAC(EmpiricalRisk):
    """Block-diagonal approximation of `GaussNewton`, positive semi-definite, ready to invert (by the solver `Kronecker`).

    What meets the text in a matrix product or an embedding gets a Kronecker block: Linear, Conv1D, embeddings, a tied head
    with both of its uses added. A side longer than `max_side` (a vocabulary) keeps the identity as its eigenvectors.
    Everything else (biases, norms, scales; `left_out`) gets the diagonal of the same matrix.

    Args:
        model, batches, params, precision: See `EmpiricalRisk`.
        correction: EK-FAC's eigenvalues (default) or K-FAC's.
        samples: Draws of the labels.
        seed: The seed that the labels are drawn from, on the model's device: a GPU gives other labels than a CPU.
        max_side: Longest side that is decomposed, d^3 FLOPs.
        positions: The share of the scored positions that the moments L and R are taken from, drawn from the seed: a part of the FLOPs
            for an estimate that is nearly as good. Both sides of a use see the same ones, and what is left counts for all. The correction's
            eigenvalues, and what has no Kronecker block, are of all positions.

    Raises:
        InputError: See `EmpiricalRisk`; a number that is out of its range. When it is built: no position is among the share.

    Cost, once, at the first product: 2/3 gradient and the second moments for each draw, as much again for the correction, and
    the eigenvectors. With the correction all of that is in float64; without, in the model's number format, where only half of each
    symmetric product is formed, and products with the same input (queries, keys, values) have one moment and one decomposition.
    A product: 4 p q (p + q) FLOPs for each matrix. Memory: p^2 + q^2 + p q for each, and one batch's factors while it is built.
    """

    divides = True

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
        positions: float = 1.0,
    ) -> None:
        super().__init__(model, batches, params, precision=precision)
        if samples < 1:
            raise InputError(f"samples must be at least 1, got {samples}")
        if not 0 < positions <= 1:
            raise InputError(f"positions must be above 0 and at most 1, got {positions}")
        self.correction, self.samples, self.seed, self.max_side, self.positions = correction, samples, seed, max_side, positions
        self._eigen: dict[str, Eigen] | None = None
        self._owners: dict[str, int] = {}

    @torch.no_grad()
    def mv(self, v: Vector) -> Vector:
        return self.applied(lambda e, v: e.apply(v, e.values_pq), v)

    def diagonal(self) -> Tensor:
        return flatten(self.applied(lambda e, p: e.diagonal().view_as(p), self.params))

    def trace(self) -> float:
        if not divided(self.params):
            return super().trace()
        blocks = self.eigen()
        own = numbers(blocks[name].diagonal().double().sum() for name in self._own)
        return self.ranks.add_number(sum(own), self.device)

    def applied(self, function: Callable[[Eigen, Tensor], Tensor], v: Vector) -> Vector:
        """What a function of a parameter's block and its part of a vector gives for every parameter, each computed by one process."""
        blocks = self.eigen()
        own = self._own
        if not divided(self.params):
            return self.ranks.add(
                {
                    name: function(blocks[name], v[name]) if name in own else torch.zeros_like(p)
                    for name, p in self.params.items()
                }
            )
        found: Vector = {}
        for name, p in self.params.items():  # of one at a time all rows are together
            all_rows = whole(v[name])
            all_rows = function(blocks[name], all_rows).contiguous() if name in own else all_rows
            found[name] = part(self.ranks.spread(all_rows, self._owners[name]), p)
        return found

    @property
    def _own(self) -> list[str]:
        """The parameters whose blocks this process applies, once they are built."""
        return [name for name, owner in self._owners.items() if owner == self.ranks.rank]

    @property
    def left_out(self) -> list[str]:
        """Names of the parameters that have a diagonal and no Kronecker block."""
        own = [name for name, e in self.eigen().items() if e.left_pp is None and e.right_qq is None]
        found = {name for names in self.ranks.told(own) for name in names}
        return [name for name in self.params if name in found]

    @property
    def drops(self) -> bool:
        """Whether rows that do not count in the moments are left out of their products; otherwise they are zeros in them."""
        return not self.correction or self.positions < 1

    def eigen(self) -> dict[str, Eigen]:
        """Every parameter's block in its eigenvectors, built at the first call. Of several processes each has those that it applies,
        and with the correction all."""
        if self._eigen is None:
            with torch.no_grad(), exact_products():
                self._eigen = self._build()
        return self._eigen

    def _build(self) -> dict[str, Eigen]:
        moments, kept = Moments(self.seen, self.max_side, exact=self.correction), 0.0
        looked_up = list[Tensor]()
        for uses_by_name, positions in self._captures():
            moments.add(uses_by_name, positions)
            looked_up += [use.ids_BT for uses in uses_by_name.values() for use in uses if isinstance(use, Lookup)]
            uses_by_name.clear()  # before the next batch is captured
            kept += float(positions.host_BT.sum().numpy())
        if not self.ranks.add_number(kept, self.device):
            raise InputError(f"positions={self.positions:g} leaves none of so few positions; take a larger share of them")
        self._owners, eigen = eigen_together(moments, self.ranks, keep_all=self.correction)
        if not self.correction:
            return eigen
        for e in eigen.values():
            e.values_pq.zero_()
        in_order = iter(orders(looked_up))  # the second time the model looks up the same
        for uses_by_name, _ in self._draws():
            for name, uses in uses_by_name.items():
                e = eigen[name]
                known = [replace(use, order=next(in_order)) if isinstance(use, Lookup) else use for use in uses]
                rotated = [_rotate(use, e) for use in known]
                rows = max(1, CHUNK_NUMBERS["cpu"] // max(1, e.values_pq.shape[1] * len(rotated[0].tensors[0])))
                for start in range(0, len(e.values_pq), rows):
                    stop = min(start + rows, len(e.values_pq))
                    e.values_pq[start:stop] += materialise(rotated, start, stop).square().sum(0)
            uses_by_name.clear()
        self.ranks.add({name: e.values_pq for name, e in eigen.items()})
        return {name: eigen[name] for name in self._own} if divided(self.params) else eigen

    def _draws(self) -> Iterator[tuple[dict[str, list[Use]], Tensor]]:
        """The uses of h_i and the positions that count, batch after batch, draw after draw; the same at every call."""
        for uses_by_name, positions in self._captures():
            heard_BT = positions.heard_BT
            masked = {name: [mask(use, heard_BT) for use in found] for name, found in uses_by_name.items()}
            uses_by_name.clear()
            yield masked, heard_BT

    def _captures(self) -> Iterator[tuple[dict[str, list[Use]], Positions]]:
        """The uses of h_i at all positions, and which count in the moments. Whether the logits are finite is asked once, after the last."""
        alike = divided(self.params)
        unconfirmed, logits = None if alike else due(self), list[Tensor]()
        host = on_host([*self.share.before, *self.share.batches])
        before, own = host[: len(self.share.before)], host[len(self.share.before) :]
        for draw in range(self.samples):
            # one stream of numbers for all sequences, in their order: how they are cut into batches, or divided among processes, does not
            # matter
            seed = (self.seed * 1_000_003 + draw) % 2**63
            generator = generator_on(self.device).manual_seed(seed)
            choice = torch.Generator().manual_seed((seed + 0x9E3779B97F4A7C15) % 2**63)  # other numbers than the labels'
            if self.positions < 1:
                for other in before:
                    draw_positions(heard(other), self.positions, choice)
            weights = self._weights(own, choice)
            for number, (batch, known) in enumerate(zip(self.share.batches, own, strict=True)):
                B, T = batch["input_ids"].shape
                labels = _Labels(generator, [] if number else before, known["labels"])
                losses = self._pseudo_losses(batch, labels.draw, logits)
                _, uses = capture(losses, self.seen, self.fixed, (B, T), alike=alike)
                if number == unconfirmed and labels.drawn_BS is not None:
                    _check_logits(logits)
                    self._confirm(number, uses, labels.drawn_BS)
                    unconfirmed = None
                weights_BT, host_BT = weights[number]
                yield uses, Positions(heard(batch).to(self.dtype), weights_BT, drop=self.drops, host_BT=host_BT)
            for batch in self.share.idle:
                B, T = batch["input_ids"].shape
                labels = _Labels(generator, [], batch["labels"].cpu())
                capture(self._pseudo_losses(batch, labels.draw, []), self.seen, self.fixed, (B, T), alike=True)
        _check_logits(logits)

    def _weights(self, own: Sequence[Batch], choice: torch.Generator) -> list[tuple[Tensor, Tensor]]:
        """What the positions of each batch count in the moments, on the device and on the host; copied at once."""
        heards = [heard(batch) for batch in own]
        kept = heards if self.positions == 1 else [draw_positions(heard_BT, self.positions, choice) for heard_BT in heards]
        host = [kept_BT.to(self.dtype) / self.positions for kept_BT in kept]
        if not host:
            return []
        parts = torch.cat([weights_BT.flatten() for weights_BT in host]).to(self.device).split([w.numel() for w in host])
        return [(part.view(weights_BT.shape), weights_BT) for part, weights_BT in zip(parts, host, strict=True)]

    def _confirm(self, number: int, uses: dict[str, list[Use]], drawn_BS: Tensor) -> None:
        """Compare the first capture of a class of model with plain differentiation, for the labels that were drawn."""
        batch = self.share.batches[number]

        def alone(i: int) -> Callable[[Vector], Tensor]:
            return self._pseudo_losses(row_of(batch, i), lambda *_: drawn_BS[i : i + 1], [])

        Witness(self, number, alone, self._pseudo_losses(batch, lambda *_: drawn_BS, [])).confirm(uses)

    def _pseudo_losses(
        self, batch: Batch, draw: Callable[[Tensor, Tensor], Tensor], seen: list[Tensor]
    ) -> Callable[[Vector], Tensor]:
        """The losses of labels drawn; the extremes of the logits go to `seen`."""
        logits = self.logits(batch)

        def losses(params: Vector) -> Tensor:
            z_BTV = logits(params)
            seen.append(extremes(z_BTV))
            weights_BS = token_weights(z_BTV, batch, self.sequences * self.samples).to(self.dtype).sqrt()
            drawn_BS = draw(z_BTV[:, :-1].detach(), weights_BS > 0)
            nll_BS, _ = token_nll(z_BTV, torch.nn.functional.pad(drawn_BS, (1, 0)))
            return (nll_BS * weights_BS).sum(1)

        return losses


def generator_on(device: torch.device) -> torch.Generator:
    """What labels are drawn from: on a GPU they would take longer to bring there than to draw there."""
    return torch.Generator(device)


def _check_logits(seen: Sequence[Tensor]) -> None:
    if not all_finite(seen):
        raise NumericsError("the model's logits are not finite: there are no labels to draw; it has diverged")


def draw_labels(z_BSV: Tensor, scored_BS: Tensor, generator: torch.Generator, numbers_B: Sequence[int] | None = None) -> Tensor:
    """`[B, S]`: labels drawn from the softmax at the scored positions, and 0 at the others.

    `numbers_B` says how many positions of each sequence are scored; otherwise the device is asked for it.

    The label with the largest p / q, where the q are exponentially distributed, is distributed as p (the exponential race, or
    Gumbel's trick). Each sequence takes its own [scored, V] numbers from the generator, so that neither padding nor the other
    sequences of its batch change what it draws. Rounding in p moves a label only where the first two of the race are that
    close, once in about 1 / eps draws; in the inverse of the cumulative distribution it would be V times as often.
    """
    drawn_BS = torch.zeros_like(scored_BS, dtype=torch.long)
    counts = scored_BS.sum(1).tolist() if numbers_B is None else numbers_B
    for z_SV, scored_S, drawn_S, number in zip(z_BSV, scored_BS, drawn_BS, counts, strict=True):
        places = chosen(scored_S, number)
        p_SV = z_SV[places].softmax(-1)
        drawn_S[places] = (p_SV / torch.empty_like(p_SV).exponential_(generator=generator)).argmax(-1)
    return drawn_BS


def pass_over(before: Sequence[Batch], z_BSV: Tensor, T: int, generator: torch.Generator) -> None:
    """Take from the generator the numbers that the labels of the texts before take, which another process draws.

    Args:
        before: Those texts.
        z_BSV: Logits of this process's own ones, of T tokens.
        T: See above.
        generator: Of the draws.
    """
    unpredicted = T - z_BSV.shape[1]  # the first token, but where virtual ones stand before it
    for batch in before:
        for scored in (batch["labels"][:, unpredicted:] != IGNORED).sum(1).tolist():
            z_BSV.new_empty(scored, z_BSV.shape[2]).exponential_(generator=generator)


class _Labels:
    """A batch's labels, drawn from the model's predictions once: a capture that has to run the model again finds the same.

    The batches before, and the batch's own labels, are on the host.
    """

    def __init__(self, generator: torch.Generator, before: Sequence[Batch], labels_BT: Tensor) -> None:
        self.generator, self.before, self.labels_BT = generator, before, labels_BT
        self.drawn_BS: Tensor | None = None

    def draw(self, z_BSV: Tensor, scored_BS: Tensor) -> Tensor:
        """`[B, S]`"""
        if self.drawn_BS is None:
            S, T = z_BSV.shape[1], self.labels_BT.shape[1]
            pass_over(self.before, z_BSV, T, self.generator)
            numbers_B = (self.labels_BT[:, T - S :] != IGNORED).sum(1).numpy().tolist()
            self.drawn_BS = draw_labels(z_BSV, scored_BS, self.generator, numbers_B)
        return self.drawn_BS


def _rotate(use: Use, e: Eigen) -> Use:
    """The use in the eigenvectors: U_L^T g_i U_R."""
    if isinstance(use, Direct):
        return use
    right_BTq = use.right_BTq if e.right_qq is None else use.right_BTq @ e.right_qq
    if isinstance(use, Outer):
        return Outer(use.left_BTp if e.left_pp is None else use.left_BTp @ e.left_pp, right_BTq)
    if e.left_pp is None:
        return replace(use, right_BTq=right_BTq)
    return Outer(e.left_pp[use.ids_BT], right_BTq)
