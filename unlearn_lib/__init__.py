"""Second-order machine unlearning of causal language models."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlearn_lib.data.questions import QuestionTask as QuestionTask
    from unlearn_lib.data.tasks import Task as Task
    from unlearn_lib.data.tasks import load_task as load_task
    from unlearn_lib.errors import (
        HubUnavailableError as HubUnavailableError,
    )
    from unlearn_lib.errors import (
        InputError as InputError,
    )
    from unlearn_lib.errors import (
        NumericsError as NumericsError,
    )
    from unlearn_lib.losses import sequence_losses as sequence_losses
    from unlearn_lib.metrics import accuracy as accuracy
    from unlearn_lib.metrics import exposures as exposures
    from unlearn_lib.metrics import text_losses as text_losses
    from unlearn_lib.models.load import load_model as load_model
    from unlearn_lib.models.load import save_model as save_model
    from unlearn_lib.service.removal import RemovalService as RemovalService
    from unlearn_lib.training.certified import train_certified_head as train_certified_head
    from unlearn_lib.training.config import TrainingConfig as TrainingConfig
    from unlearn_lib.training.loop import train as train
    from unlearn_lib.training.private import PrivacyConfig as PrivacyConfig
    from unlearn_lib.training.private import train_private as train_private
    from unlearn_lib.unlearning.unlearn import Result as Result
    from unlearn_lib.unlearning.unlearn import unlearn as unlearn

__version__ = "0.2.0"

_PUBLIC = {
    "HubUnavailableError": "unlearn_lib.errors",
    "InputError": "unlearn_lib.errors",
    "NumericsError": "unlearn_lib.errors",
    "PrivacyConfig": "unlearn_lib.training.private",
    "QuestionTask": "unlearn_lib.data.questions",
    "RemovalService": "unlearn_lib.service.removal",
    "Result": "unlearn_lib.unlearning.unlearn",
    "Task": "unlearn_lib.data.tasks",
    "TrainingConfig": "unlearn_lib.training.config",
    "accuracy": "unlearn_lib.metrics",
    "exposures": "unlearn_lib.metrics",
    "load_model": "unlearn_lib.models.load",
    "load_task": "unlearn_lib.data.tasks",
    "save_model": "unlearn_lib.models.load",
    "sequence_losses": "unlearn_lib.losses",
    "text_losses": "unlearn_lib.metrics",
    "train": "unlearn_lib.training.loop",
    "train_certified_head": "unlearn_lib.training.certified",
    "train_private": "unlearn_lib.training.private",
    "unlearn": "unlearn_lib.unlearning.unlearn",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Import public names on first use: `import unlearn_lib` and `unlearn --help` stay fast."""
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'unlearn_lib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
