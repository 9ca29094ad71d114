"""What a run took: seconds, gradients, and the peak of memory beyond what was there before."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType

import psutil
import torch

SAMPLE_SECONDS = 0.02


@dataclass(frozen=True)
class Cost:
    """What a run took.

    Attributes:
        seconds: Wall-clock time of the method, without loading and encoding.
        gradient_evaluations: Sequences whose gradient was taken; products with curvature count what their FLOPs would have paid for.
        peak_memory_bytes: Largest growth of memory during the run: on a GPU of what torch has allocated there, on a CPU of the
            process (sampled 50 times a second; what the process held before is used again unseen).
        forward_evaluations: Sequences that went through a model without a gradient, a third of its work each: to find a length, to
            see whether a limit holds, or for the original's predictions.
    """

    seconds: float
    gradient_evaluations: float
    peak_memory_bytes: int
    forward_evaluations: int = 0


class Watch:
    """A context that measures `seconds` and `peak_memory_bytes` of what happens inside it."""

    seconds = 0.0
    peak_memory_bytes = 0

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None

    def __enter__(self) -> Watch:
        if self._cuda is not None:
            torch.cuda.reset_peak_memory_stats(self._cuda)
        self._before = self._used()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        if self._cuda is None:
            self._thread.start()
        self._start = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)
            self.peak_memory_bytes = max(0, torch.cuda.max_memory_allocated(self._cuda) - self._before)
        self.seconds = time.perf_counter() - self._start
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _used(self) -> int:
        if self._cuda is not None:
            return torch.cuda.memory_allocated(self._cuda)
        return int(psutil.Process().memory_info().rss)

    def _sample(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.peak_memory_bytes = max(self.peak_memory_bytes, self._used() - self._before)
