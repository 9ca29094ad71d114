"""How an audit reads, measures and attacks."""

from __future__ import annotations

from dataclasses import dataclass

from unlearn_lib.data.batches import LongTexts


@dataclass(frozen=True)
class Settings:
    """
    Attributes:
        seed: Of the bootstrap, and of the attacks.
        batch_size: Sequences that go through a model at a time; it changes no result.
        max_length: Tokens of a sequence; None: the model's context.
        long_texts, assistant_only: As of `unlearn`.
        attacks: Whether the model is attacked by relearning, rounding, pruning, other prompts and the logit lens, which takes some
            hundred gradients.
        relearning_rate: The learning rate of relearning.
        relearning_steps: After how many of its steps the loss is looked at; the last one ends it.
    """

    seed: int = 0
    batch_size: int = 8
    max_length: int | None = None
    long_texts: LongTexts = "split"
    assistant_only: bool = True
    attacks: bool = True
    relearning_rate: float = 5e-5
    relearning_steps: tuple[int, ...] = (1, 2, 5, 10, 20)
