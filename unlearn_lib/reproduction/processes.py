"""Independent pieces of work in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any


def completed(
    work: Callable[..., Any], calls: Iterable[tuple[Any, ...]], processes: int, start: Callable[[], None]
) -> Iterator[Any]:
    """The results of `work(*call)`, as they become ready; every process runs `start` first.

    An error or an interruption ends what has not begun.
    """
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(processes, context, start) as pool:
        try:
            for done in as_completed([pool.submit(work, *call) for call in calls]):
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
