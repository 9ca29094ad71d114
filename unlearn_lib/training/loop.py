"""Fine-tuning: the one training loop behind the original model, retraining and the fine-tuning baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from unlearn_lib.checkpoints import Checkpoint
from unlearn_lib.curvature.gradient import trainable
from unlearn_lib.curvature.precision import in_full
from unlearn_lib.curvature.vector import all_finite
from unlearn_lib.data.batches import Example, LongTexts, collate, encode, sequence_length
from unlearn_lib.data.given import rows_of
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.losses import diverged, sequence_losses, without_autocast
from unlearn_lib.models.master_weights import master_weights
from unlearn_lib.ranks import add_gradients, ranks
from unlearn_lib.seeding import own_draws
from unlearn_lib.training.config import TrainingConfig as TrainingConfig

Progress = Callable[[int, int, float], None]


@without_autocast()
def train(
    model: Any,
    tokenizer: Any,
    rows: Any,
    config: TrainingConfig | None = None,
    *,
    seed: int = 0,
    max_length: int | None = None,
    long_texts: LongTexts = "split",
    assistant_only: bool = True,
    progress: Progress | None = None,
) -> list[float]:
    """Fine-tune `model` in place on the rows of a data set, read as by `unlearn`: in TRL's formats, all pieces of long texts; see
    `rows_of`, `encode` and `fit`."""
    length, given = sequence_length(model, tokenizer, max_length), rows_of(rows, "training")
    examples = encode(given, tokenizer, length, long_texts=long_texts, assistant_only=assistant_only).examples
    return fit(model, examples, config or TrainingConfig(), seed=seed, progress=progress)


def fit(
    model: Any,
    examples: Sequence[Example],
    config: TrainingConfig,
    *,
    seed: int = 0,
    progress: Progress | None = None,
    checkpoint: Checkpoint | None = None,
) -> list[float]:
    """Train `model` in place. The order of the examples in each epoch and the model's dropout are drawn from `seed` alone, and
    the global generators are left as they were.

    Args:
        model: A causal language model; it is left in evaluation mode. One in bfloat16 or float16 is trained in float32 and
            rounded once, at the end.
        examples: The training sequences.
        config: Epochs, learning rate, batch size, ...
        seed: Seed of the order, and of the dropout of every step.
        progress: Called with (step, steps, loss) after every step.
        checkpoint: Where to go on from and to save to (the float32 weights); training that was interrupted ends with the same
            weights, bit for bit on a CPU.

    Returns:
        The mean loss of every batch, in nats.

    Raises:
        InputError: No examples, or no parameter that can be trained.
        NumericsError: The loss or the weights are not finite.
        OutOfTimeError: The checkpoint's deadline has passed.

    Cost: `epochs` gradients over the examples, and a forward pass of one batch.
    """
    if not examples:
        raise InputError("there is nothing to train on: the training set is empty")
    check_trainable(model)
    with derivatives(model), own_draws(model, seed) as draw, master_weights(model):
        history = _fit(model, examples, config, seed, draw, progress, checkpoint or Checkpoint())
    return history


def _fit(
    model: Any,
    examples: Sequence[Example],
    config: TrainingConfig,
    seed: int,
    draw: Callable[[int], None],
    progress: Progress | None,
    checkpoint: Checkpoint,
) -> list[float]:
    order: list[int] = []
    wanted = round(config.epochs * len(examples))
    generator = torch.Generator().manual_seed(seed)
    while len(order) < wanted:
        order += torch.randperm(len(examples), generator=generator).tolist()
    order = order[:wanted]
    pieces = [order[i : i + config.batch_size] for i in range(0, len(order), config.batch_size)]

    params = list(trainable(model).values())
    # the fused kernel of a GPU reads the optimizer's counters as float32, and `KeepFloat64` makes them in float64
    fused = not any(p.is_cuda and p.dtype == torch.float64 for p in params)
    optimizer = torch.optim.AdamW(
        params, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=fused
    )
    optimizer.zero_grad(set_to_none=True)  # of the caller
    history = checkpoint.restore(model, optimizer)
    model.train()
    for step, piece in enumerate(pieces[len(history) :], len(history)):
        draw(step + ranks().rank * len(pieces))  # each process drops out other units
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (1 - step / len(pieces))
        loss = sequence_losses(model, collate([examples[i] for i in piece], model.device)).mean()
        if diverged(loss):
            raise NumericsError(
                f"the training loss became {loss.item()} at step {step + 1}; lower learning_rate ({config.learning_rate})"
            )
        loss.backward()
        add_gradients(params)
        torch.nn.utils.clip_grad_norm_(params, config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        history.append(loss.item())
        if progress is not None:
            progress(step + 1, len(pieces), history[-1])
        checkpoint.step_done(model, optimizer, history)
    model.eval()
    if pieces:
        refuse_divergence(model, [examples[i] for i in pieces[-1]], config.learning_rate)
    checkpoint.finish(model, history)
    return history


def check_trainable(model: Any) -> None:
    """Refuse a model of which nothing can be changed.

    Raises:
        InputError: No parameter requires a gradient, or the parameters were made under `torch.inference_mode()`.
    """
    params = trainable(model)
    if not params:
        raise InputError(
            "no parameter of the model requires a gradient, so nothing can change; call requires_grad_(True) on those that may (an "
            "adapter is loaded with PeftModel.from_pretrained(..., is_trainable=True))"
        )
    if any(p.is_inference() for p in params.values()):
        raise InputError(
            "the model's parameters were made under torch.inference_mode() and can have no gradients; load it outside of that context"
        )


@torch.no_grad()
def refuse_divergence(model: Any, examples: Sequence[Example], learning_rate: float) -> None:
    """Look at what the last step made of the model. Cost: one forward pass.

    Raises:
        NumericsError: A weight or the loss is not finite, or the loss is so large that its digits say nothing.
    """
    loss = sequence_losses(model, collate(examples, model.device)).mean()
    if diverged(loss) or not all_finite(trainable(model).values()):
        raise NumericsError(
            f"training has diverged: the loss after the last step is {loss.item()}; lower learning_rate ({learning_rate})"
        )


@contextmanager
def derivatives(model: Any) -> Iterator[None]:
    """Inside, gradients can be taken, even where the caller has switched them off (`inference_mode`, `no_grad`); those of a model in
    float64 are in float64 throughout."""
    with torch.inference_mode(False), torch.enable_grad(), in_full(trainable(model).values()):
        yield
