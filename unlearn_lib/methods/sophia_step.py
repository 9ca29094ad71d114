r"""The step of Sophia (Liu et al. 2023, arXiv 2305.14342, algorithm 3): Newton's with a diagonal, no coordinate of it longer than the rate.

    m <- b1 m + (1 - b1) g                                              in every step, once
    h <- b2 h + (1 - b2) h_hat                                          when an estimate h_hat of the curvature's diagonal is given
    theta <- theta - lr wd theta - lr clip(m / max(rho h, eps), 1)      clip(x, 1) = min(max(x, -1), 1), by coordinate

m and h begin at zero and are not corrected for that. Where h is zero, the step is that of the sign of m.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.curvature.vector import numbers


class SophiaStep(torch.optim.Optimizer):
    """The optimiser. Parameters without a gradient stay as they are.

    Args:
        params: What is optimised.
        lr: The learning rate, which is also the longest step of a coordinate, weight decay aside.
        betas: b1 and b2, at least 0 and below 1.
        rho: The factor of h: the larger, the fewer coordinates are clipped.
        eps: The smallest denominator.
        weight_decay: wd.

    Attributes:
        clipped: Of the coordinates that the last step moved (m is not zero) the share that was clipped; 0 where none moved.

    Memory: two vectors of the parameters, m and h.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        betas: tuple[float, float],
        rho: float,
        eps: float,
        weight_decay: float = 0.0,
    ) -> None:
        self.clipped = 0.0
        super().__init__(params, {"lr": lr, "betas": betas, "rho": rho, "eps": eps, "weight_decay": weight_decay})

    @property
    def params(self) -> list[Tensor]:
        """What is optimised, in order."""
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def curvature(self, estimate: Sequence[Tensor]) -> None:
        """Take an estimate of the diagonal, at least 0, into h: one tensor for each parameter, in their order."""
        betas = [group["betas"][1] for group in self.param_groups for _ in group["params"]]
        for p, beta, found in zip(self.params, betas, estimate, strict=True):
            self._averages(p)["h"].lerp_(found.to(p), 1 - beta)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the parameters; a closure is not supported and not called."""
        given = [(p, p.grad, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        counts = [self._move(p, g, group) for p, g, group in given]
        found = numbers(count for pair in counts for count in pair)
        moved = sum(found[1::2])
        self.clipped = sum(found[::2]) / moved if moved else 0.0

    def _move(self, p: Tensor, g: Tensor, group: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """One step of one parameter; how many of its coordinates were clipped, and how many moved."""
        averages = self._averages(p)
        m = averages["m"].lerp_(g, 1 - group["betas"][0])
        ratio = m / (group["rho"] * averages["h"]).clamp_(min=group["eps"])
        counts = (ratio.abs() > 1).sum(), (m != 0).sum()
        p.mul_(1 - group["lr"] * group["weight_decay"]).add_(ratio.clamp_(-1, 1), alpha=-group["lr"])
        return counts

    def _averages(self, p: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[p]
        if not state:
            state |= {"m": torch.zeros_like(p), "h": torch.zeros_like(p)}
        return state
