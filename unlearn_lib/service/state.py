"""`state.json` of a removal service as a typed model: what it holds, and how it is read and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from unlearn_lib.errors import InputError, wrong_in
from unlearn_lib.files import read_versioned

VERSION = 1
"""The schema version of state.json, which is raised with every change of its keys."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Cycle(_Part):
    """A cycle that was carried out.

    `sha256` holds the digests of the texts that it forgot, `cost` what it took (see `unlearn_lib.unlearning.cost.Cost`), `warnings` its
    sentences for the user.
    """

    cycle: int
    sha256: list[str]
    cost: dict[str, int | float]
    warnings: list[str]


class State(_Part):
    """The settings of a service, the number of its last cycle, the rows in its cache, and the cycles that were carried out."""

    schema_version: int = VERSION
    capacity: int
    method: str
    options: dict[str, Any]
    base: str | None
    seed: int
    cycle: int = 0
    cache: list[dict[str, Any]] = []
    done: list[Cycle] = []

    @classmethod
    def new(cls, *, capacity: int, method: str, options: dict[str, Any], base: str | None, seed: int) -> Self:
        """The state of a service that has done nothing yet.

        Raises:
            InputError: A setting of another kind.
        """
        try:
            return cls(capacity=capacity, method=method, options=options, base=base, seed=seed)
        except ValidationError as error:
            raise InputError(f"a removal service cannot keep this setting: {wrong_in(error)}") from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """The state in a file.

        Raises:
            InputError: The file is not valid JSON, has another schema version, or is not the state of a service.
        """
        remedy = "; put back a copy of it, the service cannot go on"
        found = read_versioned(path, (VERSION,), remedy)
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            raise InputError(f"{path} is not the state of a removal service ({wrong_in(error)}){remedy}") from error

    def as_json(self) -> str:
        """The content of `state.json`."""
        return json.dumps(self.model_dump(), indent=1, ensure_ascii=False) + "\n"

    @property
    def forgotten(self) -> set[str]:
        """The digests of all texts that were forgotten."""
        return {digest for cycle in self.done for digest in cycle.sha256}
