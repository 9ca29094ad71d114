"""Fine-tuning: the one training loop behind the original model, retraining and the fine-tuning baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unlearn_lib.checkpoints import Checkpoint
from unlearn_lib.data.batches import Example, LongTexts, collate, encode, sequence_length
from unlearn_lib.data.given import rows_of
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.losses import sequence_losses, without_autocast

Progress = Callable[[int, int, float], None]


@dataclass(frozen=True)
class TrainingConfig:
    """AdamW on the mean of the sequence losses, learning rate falling linearly to zero, gradient norm clipped.

    The paper states 5 epochs and a learning rate of 5e-5 and nothing else; at nano scale the rate is larger (see the settings
    table of the book), everything else is common practice.
    """

    epochs: float = 5
    learning_rate: float = 5e-5
    batch_size: int = 8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)


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
    """Train `model` in place; the order of the examples in each epoch is drawn from `seed`.

    Args:
        model: A causal language model; it is left in evaluation mode.
        examples: The training sequences.
        config: Epochs, learning rate, batch size, ...
        seed: Seed of the order.
        progress: Called with (step, steps, loss) after every step.
        checkpoint: Where to go on from and to save to; training that was interrupted ends with the same weights, bit for bit
            on a CPU.

    Returns:
        The mean loss of every batch, in nats.

    Raises:
        InputError: No examples.
        NumericsError: The loss is not finite.
        OutOfTimeError: The checkpoint's deadline has passed.

    Cost: `epochs` gradients over the examples.
    """
    if not examples:
        raise InputError("there is nothing to train on: the training set is empty")
    order: list[int] = []
    wanted = round(config.epochs * len(examples))
    generator = torch.Generator().manual_seed(seed)
    while len(order) < wanted:
        order += torch.randperm(len(examples), generator=generator).tolist()
    order = order[:wanted]
    pieces = [order[i : i + config.batch_size] for i in range(0, len(order), config.batch_size)]

    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        params, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )
    checkpoint = checkpoint or Checkpoint()
    history = checkpoint.restore(model, optimizer)
    model.train()
    for step, piece in enumerate(pieces[len(history) :], len(history)):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (1 - step / len(pieces))
        loss = sequence_losses(model, collate([examples[i] for i in piece], model.device)).mean()
        if not torch.isfinite(loss):
            raise NumericsError(
                f"the training loss became {loss.item()} at step {step + 1}; lower learning_rate ({config.learning_rate})"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, config.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        history.append(loss.item())
        if progress is not None:
            progress(step + 1, len(pieces), history[-1])
        checkpoint.step_done(model, optimizer, history)
    model.eval()
    checkpoint.finish(model, history)
    return history
