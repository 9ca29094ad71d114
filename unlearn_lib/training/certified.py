r"""Training of a head from which texts can be removed with a certificate (Guo et al. 2020, arXiv 1911.03030, section 3).

The body of the model is frozen and the head W minimises, over n texts whose losses l_i are those of `HeadRisk`,

    L(W) = sum_i l_i(W) + Lambda / 2 |W - W_0|^2 + <B, W>,    Lambda = lambda n,    B: independent N(0, sigma^2), drawn once

which is Lambda-strongly convex. Inexact Newton steps s, H s = -grad L up to a tenth of |grad L| or less by conjugate gradients, each
halved until the gradient's norm falls, lead to |grad L| below a tolerance in float64. What is left is the first item that the
certificate spends: see `unlearn_lib.methods.certified_newton`.
"""

from __future__ import annotations

import copy
import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from unlearn_lib.curvature import ConjugateGradients, solve
from unlearn_lib.curvature.risk import evaluating
from unlearn_lib.curvature.softmax_head import WEIGHT, HeadHessian, HeadRisk
from unlearn_lib.data.batches import LongTexts, encode, sequence_length
from unlearn_lib.data.given import rows_of
from unlearn_lib.errors import InputError, NumericsError, unknown
from unlearn_lib.losses import without_autocast
from unlearn_lib.models.certified import Certificate, Penalty, certify, set_head
from unlearn_lib.models.head_features import head_texts, untie
from unlearn_lib.models.master_weights import master_weights
from unlearn_lib.training.loop import Progress, derivatives

Towards = Literal["zero", "head"]
FORCING = 0.1
"""The largest relative residual of a Newton system; it falls with the gradient, so that the last steps converge fast."""
CG_STEPS = 1000
SUFFICIENT = 1e-4
"""The share of the decrease that the linear model promises which a step has to reach."""
SHORTEST = 2.0**-30


@without_autocast()
def train_certified_head(
    model: Any,
    tokenizer: Any,
    rows: Any,
    *,
    weight_decay: float,
    sigma: float,
    body_public: bool = False,
    tolerance: float = 1e-6,
    towards: Towards = "zero",
    penalty: Penalty = "fixed",
    seed: int | None = None,
    max_length: int | None = None,
    long_texts: LongTexts = "split",
    assistant_only: bool = True,
    batch_size: int = 8,
    max_steps: int = 100,
    progress: Progress | None = None,
) -> Any:
    r"""A copy of `model` whose head is trained anew on some texts, so that `certified-newton` can remove any of them.

    Args:
        model: A causal language model whose logits are a matrix times its features; it is left unchanged. Where its head is its
            embedding, too, the copy has a head of its own, and the embedding stays as it is.
        tokenizer: Its tokenizer.
        rows: The texts, as `rows_of` takes them. A text is what can be removed, whatever its length.
        weight_decay: lambda > 0, for losses that are means over a text's tokens, and features as the model gives them: of norm near
            sqrt(d) after a layer norm. More of it makes removals cheaper and the head worse.
        sigma: The standard deviation of B. More of it allows more removals and makes the head worse. 0 gives no certificate.
        body_public: The caller's statement that everything but the head was never trained on these texts, which no computation can find
            out. It is kept in the model's state.
        tolerance: The norm of the gradient to reach.
        towards: W_0: "zero", as the source has it, or "head", the head that the model has, which then has to be public, too. With the
            latter the head tends to the model's own, and not to equal chances for all tokens, as lambda grows.
        penalty: What becomes of Lambda when texts leave. "fixed" keeps it: the head is to be what training on the other texts with the
            same Lambda gives. "per-text", as the source has it, lowers it to lambda times the texts that are left. Then every removal
            scales W, and with it the noise in all V d numbers, which costs far more than the texts' own influence.
        seed: Of B. None draws one that nobody knows, which the certificate rests on; a number is for repeatable experiments.
        max_length, long_texts, assistant_only: How texts are read; see `unlearn`.
        batch_size: Sequences that go through the body at a time.
        max_steps: Newton steps allowed.
        progress: Called with (step, max_steps, mean loss of the texts).

    Returns:
        A model with the attribute `certificate` (see `Certificate`), which is a plain transformers model in all else. `save_model` writes
        its state beside the checkpoint, and `load_model` gives both back.

    Raises:
        InputError: `body_public` is not stated, a setting is out of its range, there are no texts, or the model has no such head.
        NumericsError: The tolerance was not reached.

    Cost: a forward pass of the texts, and some tens to hundreds of products with the head's Hessian, of 6 N V d FLOPs each for N scored
    tokens; memory for the features, N d numbers, and for about eight matrices of the head's size in float64.
    """
    _check(weight_decay, sigma, tolerance, body_public)
    for name, value, known in (("towards", towards, Towards), ("penalty", penalty, Penalty)):
        if value not in get_args(known):
            raise unknown(f"value of {name}", value, get_args(known))
    length = sequence_length(model, tokenizer, max_length)
    given = rows_of(rows, "training")
    examples = encode(given, tokenizer, length, long_texts=long_texts, assistant_only=assistant_only).examples
    if not examples:
        raise InputError("there is nothing to train on: the training set is empty")
    own = copy.deepcopy(model)
    with derivatives(own), torch.no_grad():
        untie(own)
        with evaluating(own), master_weights(own):
            texts = head_texts(own, examples, batch_size)
        old_Vd = own.get_output_embeddings().weight.detach().double()
        center_Vd = torch.zeros_like(old_Vd) if towards == "zero" else old_Vd.clone()
        noise_Vd = _noise(old_Vd.shape, sigma, seed).to(old_Vd.device)
        risk = HeadRisk(texts, old_Vd.device)
        objective = Objective(risk, weight_decay * len(texts), noise_Vd, center_Vd)
        report = None if progress is None else (lambda step, W_Vd: progress(step, max_steps, risk.loss(W_Vd) / len(texts)))
        found = minimise(objective, tolerance, max_steps, report)
        set_head(own, found.head_Vd)
    return certify(
        own,
        Certificate(
            found.head_Vd.cpu(),
            noise_Vd.cpu(),
            center_Vd.cpu(),
            texts,
            weight_decay,
            penalty,
            len(texts),
            sigma,
            found.residual,
            0,
            body_public,
            found.products,
            tokenizer,
        ),
    )


@dataclass(frozen=True)
class Objective:
    """L(W): a risk, Lambda, B and W_0."""

    risk: HeadRisk
    convexity: float
    noise_Vd: Tensor
    center_Vd: Tensor

    def gradient(self, W_Vd: Tensor) -> Tensor:
        """`[V, d]`"""
        return self.risk.gradient(W_Vd) + self.convexity * (W_Vd - self.center_Vd) + self.noise_Vd


@dataclass(frozen=True)
class Minimum:
    """Where the minimisation ended: W, the norm of the gradient there, and how many Hessian products it took."""

    head_Vd: Tensor
    residual: float
    products: int


def minimise(
    objective: Objective, tolerance: float, max_steps: int = 100, report: Callable[[int, Tensor], None] | None = None
) -> Minimum:
    """The minimum of L from W_0, by inexact Newton steps.

    Raises:
        NumericsError: The norm of the gradient stays above the tolerance.
    """
    W_Vd, products = objective.center_Vd.clone(), 0
    g_Vd = objective.gradient(W_Vd)
    first = length = float(g_Vd.norm())
    for step in range(max_steps):
        if not length > tolerance:
            break
        # no system has to be solved beyond what the gradient may keep in the end
        forcing = min(FORCING, max(length / first, 0.1 * tolerance / length))
        solver = ConjugateGradients(objective.convexity, max_steps=CG_STEPS)
        system = HeadHessian(objective.risk, W_Vd)
        solution = solve(system, {WEIGHT: -g_Vd}, solver, tolerance=forcing, throw=False)
        products += solution.iterations
        assert isinstance(solution.value, dict)
        found = _shorter(objective, W_Vd, solution.value[WEIGHT], length)
        if found is None:
            break
        W_Vd, g_Vd, length = found
        if report is not None:
            report(step + 1, W_Vd)
    if not length <= tolerance:
        raise NumericsError(
            f"the head was not trained to a gradient of norm {tolerance:g}: it is {length:.2g} after {products} Hessian products; raise "
            "tolerance, max_steps or weight_decay"
        )
    return Minimum(W_Vd, length, products)


def _shorter(objective: Objective, W_Vd: Tensor, s_Vd: Tensor, length: float) -> tuple[Tensor, Tensor, float] | None:
    """`(W, gradient, its norm)` after the first of the steps s, s / 2, s / 4, ... that shortens the gradient; None if none does."""
    t = 1.0
    while t > SHORTEST:
        new_Vd = W_Vd + t * s_Vd
        g_Vd = objective.gradient(new_Vd)
        new = float(g_Vd.norm())
        if math.isfinite(new) and new <= (1 - SUFFICIENT * t) * length:
            return new_Vd, g_Vd, new
        t /= 2
    return None


def _noise(shape: torch.Size, sigma: float, seed: int | None) -> Tensor:
    if seed is None:  # torch's generator takes 32 bits of a seed, which can be tried out
        return sigma * torch.from_numpy(np.random.default_rng(secrets.randbits(256)).standard_normal(shape))
    return sigma * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _check(weight_decay: float, sigma: float, tolerance: float, body_public: bool) -> None:
    if not (0 < weight_decay < math.inf and 0 <= sigma < math.inf and 0 < tolerance < math.inf):
        raise InputError(
            f"weight_decay > 0, sigma >= 0 and tolerance > 0 are needed, got {weight_decay}, {sigma} and {tolerance}"
        )
    if body_public is not True:
        raise InputError(
            "a certificate for the head says nothing of texts that the rest of the model was trained on; if all but the head never saw "
            "these texts, nor what was made of them, state it with body_public=True"
        )
