"""How a model is fine-tuned, as values: apart from the loop, so that reading a configuration does not load torch."""

from __future__ import annotations

from dataclasses import dataclass


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
