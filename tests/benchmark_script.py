"""The scripts of the benchmarks, for tests that use the fixture `benchmark_scripts`."""

import importlib
from typing import Any


def script(name: str) -> Any:
    """The module of a script."""
    return importlib.import_module(name)
