"""What an audit finds, as typed models: `report.json` of `unlearn audit`, and its JSON Schema.

`python -m unlearn_lib.audit.schema > book/audit.schema.json` writes the schema that the book offers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unlearn_lib.errors import InputError, wrong_in
from unlearn_lib.files import read_versioned

VERSION = 1
"""The schema version of an audit's report.json. It is raised where a key goes or changes its meaning; a new key leaves it as it is."""

Outcome = Literal["like retraining", "forgotten", "not forgotten", "hidden", "over-erased", "worn", "utility lost", "undecided"]
Answer = Literal["good", "bad", "unclear"]


class Part(BaseModel):
    """A part of an audit. Keys that this version does not know are kept."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Measure(Part):
    """One number with what it rests on."""

    family: str = Field(description="What kind of measure it is: knowledge, membership, distance, attack or utility.")
    name: str = Field(description="The measure.")
    role: str = Field(description="Whose: audited, original, retrained or base.")
    texts: str = Field(description="Of which texts: forget, retain, holdout, or a comparison of two sets.")
    value: float
    low: float | None = Field(default=None, description="The lower end of its 95 % bootstrap interval over texts.")
    high: float | None = Field(default=None, description="The upper end.")
    n: int = Field(description="How many texts it rests on; of a comparison the smaller number.")
    m: int | None = Field(default=None, description="Of a comparison the larger number of texts.")
    unit: str = Field(default="", description="nats, share, ratio or steps; empty for a plain number.")


def find(measures: Iterable[Measure], name: str, texts: str, role: str = "audited") -> Measure | None:
    """The measure of that name, of those texts, of that model; None where it was not measured."""
    wanted = (name, texts, role)
    return next((one for one in measures if (one.name, one.texts, one.role) == wanted), None)


class Finding(Part):
    """The answer to one question."""

    question: str
    answer: Answer
    says: str = Field(description="The answer in a sentence, with its numbers.")


class Skipped(Part):
    """What was not measured, and why."""

    name: str
    why: str


class Curve(Part):
    """The loss of forget texts, in nats, over the steps of a relearning attack."""

    role: str
    points: list[tuple[int, float]]


class AuditedModel(Part):
    """One of the models that were given."""

    role: str
    name: str = Field(description="The folder or name, as it was given.")
    type: str = Field(description="The kind of model, as its configuration calls it.")
    parameters: int


class TextFile(Part):
    """One set of texts."""

    path: str
    rows: int
    used: int = Field(description="The texts that were used: duplicates of other sets are dropped.")
    sha256: str


class ForgetText(Part):
    """One forget text."""

    row: int = Field(description="Its row in the file, from 1; empty lines are not counted.")
    sha256: str = Field(description="The first 12 digits of the SHA-256 of the row as JSON with sorted keys.")
    loss: float
    extraction_strength: float
    text: str | None = Field(default=None, description="What it says; only with `--show-texts`.")


class Audit(Part):
    """What an audit of an unlearned model found."""

    schema_version: int = VERSION
    outcome: Outcome = Field(description="The verdict in a word or two.")
    verdict: str = Field(description="The verdict in plain words.")
    findings: list[Finding]
    measures: list[Measure]
    curves: list[Curve]
    skipped: list[Skipped]
    losses: dict[str, dict[str, list[float]]] = Field(
        description="The loss of every text, in nats, by model and set, in the order of the file without what was dropped."
    )
    forget_texts: list[ForgetText] = Field(description="At most 20, those best known first.")
    models: list[AuditedModel]
    data: dict[str, TextFile]
    settings: dict[str, Any]
    environment: dict[str, str | int]
    warnings: list[str]

    def value(self, name: str, texts: str, role: str = "audited") -> Measure | None:
        """The measure of this name, or None."""
        return find(self.measures, name, texts, role)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The audit in a file.

        Raises:
            InputError: The file is not valid JSON, has another schema version, or is not an audit.
        """
        found = read_versioned(path, (VERSION,))
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            raise InputError(f"{path} is not a report of `unlearn audit`: {wrong_in(error)}") from error

    def as_json(self) -> str:
        """The content of `report.json`.

        Raises:
            ValueError: A number is not finite.
        """
        return json.dumps(self.model_dump(exclude_none=True), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def json_schema_text() -> str:
    """The content of `audit.schema.json`."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Audit.model_json_schema()}
    return json.dumps(schema, indent=1) + "\n"


if __name__ == "__main__":
    print(json_schema_text(), end="")
