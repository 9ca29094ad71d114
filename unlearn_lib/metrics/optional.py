"""Packages of the extra `audit`, which not everybody installs."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from unlearn_lib.errors import InputError


def sklearn(part: str) -> Any:
    """A module of scikit-learn, imported when it is needed.

    Raises:
        InputError: scikit-learn is not installed.
    """
    try:
        return import_module(f"sklearn.{part}")
    except ImportError as error:
        raise InputError(
            f"sklearn.{part} is needed here, and scikit-learn is not installed: pip install 'unlearn_lib[audit]'"
        ) from error
