"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0

Say = Callable[[str], None]
"""Called with one line for the user."""


class ProgressBar:
    """A context whose value is called with (step, steps, loss). Writes to stderr, unless it is to be silent."""

    def __init__(self, title: str, *, silent: bool = False) -> None:
        self._title, self._silent, self._last = title, silent, time.monotonic()
        self._bar = tqdm(desc=title, leave=False, file=sys.stderr) if sys.stderr.isatty() and not silent else None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, step: int, steps: int, loss: float) -> None:
        if self._bar is not None:
            self._bar.total = steps
            self._bar.n = step
            self._bar.set_postfix(loss=f"{loss:.3f}")
        elif not self._silent and time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            print(f"{self._title}: {step}/{steps}, loss {loss:.3f}", file=sys.stderr, flush=True)


def quiet_libraries() -> None:
    """No progress bars and no advice from transformers and datasets, whose work takes no time beside ours."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
