"""Names that stand in a scenario's `method` beside those of the library's methods."""

from __future__ import annotations

ORIGINAL = "original"
"""The model before any unlearning."""
PRIVATE = "dp-sgd"
"""A model trained privately on all of D."""
