"""Run records: small JSON files, one per finished run, found by the hash of the run's whole configuration.

A finished record is never computed again; a run whose configuration differs in anything (an option, a seed, a data hash, the
numerics version) has another key, so a record is never reused for something else. With the same configuration, machine and
number of threads a record comes out bit for bit the same, except its `timing` and `provenance`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from unlearn_lib.environment import provenance
from unlearn_lib.errors import InputError
from unlearn_lib.files import write_text
from unlearn_lib.reproduction.runs.record import Record, problem


def key(config: Mapping[str, Any]) -> str:
    """The SHA-256 of a configuration in canonical JSON."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


class RunStore:
    """The records below one folder. `name` is a readable file name prefix; only the key decides what is found."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def path(self, name: str, config: dict[str, Any]) -> Path:
        return self.folder / f"{name}-{key(config)[:12]}.json"

    def get(self, name: str, config: dict[str, Any]) -> Record | None:
        """The record of this configuration, or None.

        Raises:
            InputError: The file was edited or damaged: no JSON, no record, not of the configuration its name stands for, or without
                the results that a run of this configuration gives.
        """
        path = self.path(name, config)
        if not path.exists():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, numbers or nesting that Python does not read
            raise InputError(f"the record {path} is not valid JSON ({error}); delete it and run again") from error
        if not isinstance(record, dict) or record.get("config") != json.loads(json.dumps(config)):
            raise InputError(f"the record {path} does not hold the configuration it is named after; delete it and run again")
        if not isinstance(record.get("results"), dict):
            raise InputError(f"the record {path} holds no results; delete it and run again")
        if (wrong := problem(record)) is not None:
            raise InputError(
                f"the record {path} is not what a run of its configuration gives ({wrong}); delete it and run again"
            )
        return cast(Record, record)

    def put(self, name: str, config: dict[str, Any], results: dict[str, Any], timing: dict[str, float]) -> Record:
        """Write a record, whole or not at all, and return it.

        Raises:
            ValueError: A number is not finite, or the record is not what a run of its configuration gives; nothing is written.
        """
        record = {"config": config, "results": results, "timing": timing, "provenance": provenance()}
        text = json.dumps(record, indent=1, allow_nan=False) + "\n"
        written = json.loads(text)
        if (wrong := problem(written)) is not None:
            raise ValueError(f"the record of {name} is not what a run of its configuration gives: {wrong}")
        write_text(self.path(name, config), text)
        return cast(Record, written)
