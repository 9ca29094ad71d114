"""Independent pieces of work in several processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

# glibc gives memory of this size back at every release and fetches it anew, page by page: a quarter of the time of a nano model
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_TOP_PAD_": str(1 << 26)}


def completed(
    work: Callable[..., Any], calls: Iterable[tuple[Any, ...]], processes: int, start: Callable[[], None]
) -> Iterator[Any]:
    """The results of `work(*call)`, as they become ready; every process runs `start` first.

    An error or an interruption ends what has not begun. Where this process is killed, its processes end with it.
    """
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with _environment(KEEP_MEMORY), ProcessPoolExecutor(processes, context, _begin, (start,)) as pool:
        try:
            for done in as_completed([pool.submit(work, *call) for call in calls]):
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(start: Callable[[], None]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    start()


def _end_with_parent() -> None:
    """A process of a pool whose parent was killed would otherwise wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _environment(wanted: dict[str, str]) -> Iterator[None]:
    """Set for the processes that are started inside, where the user has not set it; the C library reads it at their start."""
    new = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]
