"""Measures of what was forgotten and what it cost."""

from unlearn_lib.metrics.accuracy import accuracy
from unlearn_lib.metrics.exposure import exposure, exposures
from unlearn_lib.metrics.text_losses import text_losses

__all__ = ["accuracy", "exposure", "exposures", "text_losses"]
