"""What is asked of `unlearn`, in one place: for the function, the command and a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearn_lib.data.batches import LongTexts


@dataclass(frozen=True)
class Request:
    """What is asked of `unlearn`, beside the model and its tokenizer: its arguments, with the method's options as one of them."""

    forget: Any = None
    retain: Any = None
    holdout: Any = None
    base: Any = None
    method: str = "constrained-newton"
    seed: int = 0
    batch_size: int = 8
    max_length: int | None = None
    long_texts: LongTexts = "split"
    assistant_only: bool = True
    batch_tokens: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def given(self) -> list[str]:
        """Which of the inputs that a method may need are there: names among "retain", "holdout" and "base"."""
        return [name for name in ("retain", "holdout", "base") if getattr(self, name) is not None]
