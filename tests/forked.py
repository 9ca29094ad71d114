"""Scripts in processes of their own that start at once: forks of one that has imported the library and done nothing yet.

To import torch, transformers and the library takes longer than most of what the tests let such a process do. Forks of the tests' own
process could find a lock held by one of its threads, and wait for ever.
"""

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

_IMPORTED = (
    "matplotlib.pyplot",
    "torch",
    "transformers.models.opt.modeling_opt",
    "unlearn_lib.command.cli",
    "unlearn_lib.command.run",
    "unlearn_lib.methods",
)


class Forked:
    """A Python script with its words, as `subprocess.Popen` would start it, with these variables besides those of the environment."""

    def __init__(self, words: tuple[object, ...], environment: Mapping[str, str]) -> None:
        context: Any = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(_IMPORTED))
        self._folder = tempfile.TemporaryDirectory()
        self._said = [Path(self._folder.name) / name for name in ("out", "err")]
        given = ([*map(str, words)], {**os.environ, **environment}, [*map(str, self._said)])
        self._process = context.Process(target=_run, args=given)
        self._process.start()
        self.returncode: int | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.returncode is None:
            self._process.kill()
            self.communicate()
        self._folder.cleanup()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it has said in both ways, when it has ended; a TimeoutError where it has not."""
        if self.returncode is None:
            self._process.join(timeout)
            if self._process.exitcode is None:
                raise TimeoutError(f"the process has not ended within {timeout} seconds")
            self.returncode = self._process.exitcode
            self._process.close()
        out, err = (path.read_text(encoding="utf-8") for path in self._said)
        return out, err


def _run(words: list[str], environment: dict[str, str], said: list[str]) -> None:
    import torch

    for number, path in enumerate(said, 1):
        with open(path, "w", encoding="utf-8") as file:
            os.dup2(file.fileno(), number)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)  # OMP_NUM_THREADS is read when torch is imported
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")
