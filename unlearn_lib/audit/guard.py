"""One measure that cannot be taken must not take the others with it: what failed is listed with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from unlearn_lib.audit.schema import Measure, Skipped
from unlearn_lib.errors import InputError, NumericsError, first_line

Progress = Callable[[str], None]


@dataclass
class Guard:
    """Collects measures, and the reasons of those that are missing."""

    progress: Progress
    measures: list[Measure] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def take(self, name: str, function: Callable[..., Iterable[Measure]], *args: Any) -> None:
        """Add what the function gives for these arguments; where it fails nothing of it is added, and the reason is kept.

        An interruption, and a lack of memory on the CPU that ends the process, end the audit.
        """
        self.progress(name)
        try:
            found = list(function(*args))
        except (InputError, NumericsError) as error:
            self.skip(name, str(error))
        except ImportError as error:
            self.skip(name, f"a package is missing ({error.name or error}); install unlearn_lib[audit]")
        except Exception as error:  # an audit says what it could not measure, whatever the reason, and goes on
            self.skip(name, f"it failed with {type(error).__name__}: {first_line(error)}")
        else:
            self.measures += found

    def skip(self, name: str, why: str) -> None:
        """Say that something was not measured."""
        self.skipped.append(Skipped(name=name, why=why))
