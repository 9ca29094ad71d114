r"""DP-SGD (Abadi et al. 2016, arXiv 1607.00133) with one text as the unit of privacy.

Every step takes each text with probability q (Poisson sampling), clips each text's whole gradient to C, and moves along

    ( sum_i g_i min(1, C / |g_i|) + sigma C N(0, I) ) / (q n),      q n: the expected batch size

so that no text changes the result by much, and epsilon(delta) says by how much at most. Privacy is not unlearning: it bounds
the influence of every text beforehand, at a price for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from unlearn_lib.curvature import EmpiricalFisher, trainable
from unlearn_lib.curvature.vector import Vector, scale, total, zeros
from unlearn_lib.data.batches import Example, encode, make_batches, sequence_length
from unlearn_lib.data.given import rows_of
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.models.master_weights import master_weights
from unlearn_lib.seeding import own_draws
from unlearn_lib.training.loop import Progress, check_trainable, derivatives, refuse_divergence

# Renyi orders that are tried. No epsilon below about log(1 / delta) / (largest order - 1) can be shown, and opacus' own end at 63: 0.19.
ORDERS = [1.005, 1.01, 1.02, 1.05, *(1 + k / 10 for k in range(1, 100))]
ORDERS += [*range(12, 64), 72, 80, 96, 128, 192, 256, 384, 512, 768, 1024]


@dataclass(frozen=True)
class PrivacyConfig:
    """How to train.

    Attributes:
        noise_multiplier: sigma, the noise's standard deviation over C; 0 for none (and no privacy). See `noise_for`.
        clip_norm: C, the largest gradient norm of a text.
        delta: The chance that epsilon does not hold; well below one over the number of texts.
        batch_size: The expected one, q n.
        epochs: Expected passes over the texts.
        learning_rate, optimizer: Of "sgd" (no momentum) or "adam".
    """

    noise_multiplier: float
    clip_norm: float = 1.0
    delta: float = 1e-5
    batch_size: int = 32
    epochs: float = 5
    learning_rate: float = 5e-4
    optimizer: Literal["sgd", "adam"] = "adam"

    def steps(self, n: int) -> int:
        """Number of steps for n texts."""
        return max(1, round(self.epochs * n / self.batch_size))

    def rate(self, n: int) -> float:
        """q for n texts."""
        return min(1.0, self.batch_size / n)


@dataclass(frozen=True)
class PrivacySpent:
    """What was guaranteed and how: `epsilon` at `delta` after `steps` steps with C, q and sigma; infinite without noise."""

    epsilon: float
    delta: float
    clip_norm: float
    sampling_rate: float
    noise_multiplier: float
    steps: int


def epsilon(noise_multiplier: float, sampling_rate: float, steps: int, delta: float) -> float:
    """The privacy loss of the subsampled Gaussian mechanism, by opacus' Renyi accountant."""
    if noise_multiplier == 0:
        return float("inf")
    accountant = _accountant()
    accountant.history = [(noise_multiplier, sampling_rate, steps)]
    return float(accountant.get_epsilon(delta, alphas=ORDERS))


def noise_for(target_epsilon: float, sampling_rate: float, steps: int, delta: float) -> float:
    """The smallest noise multiplier (to 1 %) whose epsilon is at most `target_epsilon`, by bisection on `epsilon`."""
    if not target_epsilon > 0:
        raise InputError(f"epsilon must be positive, got {target_epsilon}")
    low, high = 0.0, 1.0
    while epsilon(high, sampling_rate, steps, delta) > target_epsilon:
        low, high = high, 2 * high
        if high > 1e6:
            raise InputError(f"no noise below 1e6 reaches epsilon {target_epsilon:g}; take fewer steps or a larger epsilon")
    while high - low > 0.01 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if epsilon(middle, sampling_rate, steps, delta) <= target_epsilon else (middle, high)
    return high


def train_private(
    model: Any,
    tokenizer: Any,
    rows: Any,
    config: PrivacyConfig,
    *,
    seed: int = 0,
    max_length: int | None = None,
    micro_batch_size: int = 16,
    progress: Progress | None = None,
) -> PrivacySpent:
    """Train `model` in place with DP-SGD; dropout is off. A model in bfloat16 or float16 is trained in float32 and rounded at the end.

    Args:
        model: A causal language model; eager attention, as for all per-sequence gradients.
        tokenizer: Its tokenizer.
        rows: The texts, as `rows_of` takes them.
        config: Noise, clipping, steps.
        seed: Of sampling and noise. (A seeded generator is reproducible, not cryptographic.)
        max_length: Longer texts are cut to this many tokens; default: the model's context.
        micro_batch_size: Sequences that go through the model at a time.
        progress: Called with (step, steps, mean norm of the texts' gradients before clipping).

    Raises:
        InputError: No texts, settings out of range, or no parameter that can be trained.
        NumericsError: A gradient, the loss or a weight is not finite.

    Cost: 4/3 gradients of every text sampled.
    """
    if config.noise_multiplier < 0 or not config.clip_norm > 0 or not 0 < config.delta < 1:
        raise InputError(f"noise_multiplier >= 0, clip_norm > 0 and 0 < delta < 1 are needed, got {config}")
    examples = encode(rows_of(rows, "training"), tokenizer, sequence_length(model, tokenizer, max_length)).examples
    if not examples:
        raise InputError("there is nothing to train on: the training set is empty")
    check_trainable(model)
    n = len(examples)
    q, steps = config.rate(n), config.steps(n)
    spent = PrivacySpent(
        epsilon(config.noise_multiplier, q, steps, config.delta),
        config.delta,
        config.clip_norm,
        q,
        config.noise_multiplier,
        steps,
    )
    with derivatives(model), own_draws(model, seed), master_weights(model):
        _steps(model, examples, config, seed, micro_batch_size, progress)
        refuse_divergence(model, examples[:micro_batch_size], config.learning_rate)
    return spent


def _steps(
    model: Any, examples: Sequence[Example], config: PrivacyConfig, seed: int, micro_batch_size: int, progress: Progress | None
) -> None:
    n, params = len(examples), trainable(model)
    q, steps = config.rate(n), config.steps(n)
    kind = torch.optim.SGD if config.optimizer == "sgd" else torch.optim.Adam
    optimizer = kind(params.values(), lr=config.learning_rate)
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    for step in range(steps):
        taken = (torch.rand(n, generator=generator) < q).nonzero().flatten().tolist()
        clipped, mean_norm = clipped_sum(model, [examples[i] for i in taken], config.clip_norm, micro_batch_size)
        for name, p in params.items():
            noise = torch.randn(p.shape, generator=generator).to(p) if config.noise_multiplier else torch.zeros_like(p)
            p.grad = (clipped[name].to(p) + config.noise_multiplier * config.clip_norm * noise) / (q * n)
        optimizer.step()
        optimizer.zero_grad()
        if progress is not None:
            progress(step + 1, steps, mean_norm)


def clipped_sum(model: Any, examples: Sequence[Example], clip_norm: float, micro_batch_size: int) -> tuple[Vector, float]:
    """`(sum_i g_i min(1, C / |g_i|), mean of |g_i|)`, the g_i gradients of single texts in all parameters together."""
    params = trainable(model)
    if not examples:
        return zeros(params), 0.0
    parts, norms = [scale(0.0, {name: p.detach() for name, p in params.items()})], []
    for batch in make_batches(examples, micro_batch_size, model.device):
        gradients = EmpiricalFisher(model, [batch]).gradients()
        norm_B = gradients.norms()
        if not torch.isfinite(norm_B).all():
            raise NumericsError("a gradient is not finite; lower the learning rate")
        parts = [total([parts[0], gradients.adjoint((clip_norm / norm_B.clamp_min(1e-300)).clamp_max(1.0))])]
        norms.append(norm_B)
    return parts[0], float(torch.cat(norms).mean())


def _accountant() -> Any:
    try:
        from opacus.accountants import RDPAccountant
    except ImportError as error:
        raise InputError(
            "the privacy accountant comes from opacus, which is not installed: pip install 'unlearn_lib[dp]'"
        ) from error
    return RDPAccountant()
