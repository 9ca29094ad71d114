"""`report.json` as typed models: what it holds, how it is read, and its JSON Schema.

`python -m unlearn_lib.command.report.schema > book/report.schema.json` writes the schema that the book offers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from unlearn_lib.audit.schema import Finding, Outcome
from unlearn_lib.errors import InputError, wrong_in
from unlearn_lib.files import read_versioned

VERSION = 2
"""The schema version of report.json. It is raised where a key goes or changes its meaning; a new key leaves it as it is."""
READ = (1, 2)
"""The versions that are read. Version 1 counts `solution.gradient_evaluations` in gradients of the whole set that curvature is of."""

Number = Annotated[int | float, WithJsonSchema({"type": "number"})]
"""A number that is written as it was given: an integer without a decimal point."""


class Part(BaseModel):
    """A part of a report. Nothing is converted; keys that this version does not know are kept, because a new key leaves the schema
    version as it is."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)


class Formats(Part):
    """The number formats of a model's weights, several of them separated by commas."""

    stored: str | None = Field(description="Those that the given model was stored in; null where that is not known.")
    worked_in: str = Field(description="Those that the method worked in.")
    written: str = Field(description="Those that the new model was written, and measured, in.")


class GivenModel(Part):
    """The model that was given."""

    name: str = Field(description="The folder or name, as it was given.")
    base: str | None = Field(description="The checkpoint from before training, where one was given.")
    type: str = Field(description="The kind of model, as its configuration calls it.")
    parameters: int = Field(description="The number of its parameters.")
    trainable: int = Field(description="The number of those that could change.")
    dtype: Formats | None = Field(None, description="Number formats; reports of version 0.1.0 do not have them.")


class DataFile(Part):
    """One file of texts."""

    path: str = Field(description="The file, as it was given.")
    rows: int = Field(description="The rows that it holds.")
    used: int = Field(description="The texts that were used: duplicates are dropped.")
    sequences: int | None = Field(
        None, description="The sequences that the used texts were read as; reports of version 0.1.0 do not have it."
    )
    sha256: str = Field(description="The SHA-256 of the file.")


class Data(Part):
    """The files of texts; null for a set that was not given."""

    forget: DataFile
    retain: DataFile | None
    holdout: DataFile | None


class Change(Part):
    """A number under the given and under the new model."""

    before: Number | None
    after: Number | None


class Losses(Part):
    """The mean losses of the sets, in nats per scored token; null for a set that was not given."""

    forget: Change
    retain: Change
    holdout: Change


class Metrics(Part):
    """How well one model knows the forget texts."""

    loss_attack_auc: Number | None = Field(
        description="The chance that a forget text has a lower loss than a held-out text; null without held-out texts."
    )
    greedy_extraction: Number = Field(
        description="The share of forget texts whose second half greedy decoding completes exactly."
    )
    extraction_strength: Number = Field(
        description="The mean share of a forget text that greedy decoding gives exactly, from the shortest prefix that does it."
    )
    memorisation_accuracy: Number = Field(
        description="The share of the forget texts' tokens that are the most likely prediction."
    )


class BothMetrics(Part):
    """The metrics of the given and of the new model."""

    before: Metrics
    after: Metrics


class ForgetText(Part):
    """One forget text: at most 20 are in a report, those best known before first."""

    row: int = Field(description="Its row in the file, from 1; empty lines are not counted.")
    tokens: int = Field(description="Its tokens, as used.")
    sha256: str = Field(description="The first 12 digits of the SHA-256 of the row as JSON with sorted keys.")
    loss: Change
    extraction_strength: Change
    text: str | None = Field(None, description="What it says; only with `--show-texts`.")


class LinearSolve(Part):
    """The last linear solve of a second-order method."""

    converged: bool
    reason: str = Field(description="Why the solver stopped.")
    iterations: int
    residual: Number = Field(description="The relative residual, recomputed from the solution.")
    operator: str = Field(description="The system that was solved.")
    gradient_evaluations: Number = Field(
        description="What the solve took, in gradients of single texts; in version 1 of the whole set."
    )
    peak_memory_bytes: int


class Spent(Part):
    """What the method took."""

    seconds: Number
    gradient_evaluations: Number = Field(description="Gradients of single texts.")
    peak_memory_bytes: int = Field(description="Memory beyond that of the model.")
    forward_evaluations: int | None = Field(
        None,
        description="Texts that went through a model without a gradient; reports of version 0.2.0 and before do not have it.",
    )


class Verdict(Part):
    """What `unlearn audit` would say of the new model, without a retrained model and without attacks."""

    outcome: Outcome = Field(description="The verdict in a word or two.")
    sentence: str = Field(description="The verdict in plain words.")
    findings: list[Finding] = Field(description="The answers that it rests on.")


class Report(Part):
    """What `unlearn run` did, to what, and what came of it."""

    schema_version: int = Field(
        description=f"{VERSION}; raised where a key goes or changes its meaning. Version 1 is read, too."
    )
    method: str
    seed: int
    model: GivenModel
    data: Data
    environment: dict[str, str | int] = Field(description="Versions, processor, threads, commit and time.")
    config: dict[str, Any] = Field(description="Every option with its value.")
    verdict: Verdict | None = Field(
        None,
        description="Whether the new model has forgotten; reports of version 0.2.0 and before do not have it.",
    )
    losses: Losses
    metrics: BothMetrics
    forget_texts: list[ForgetText]
    solution: LinearSolve | None = Field(description="null for a method that solves no linear system.")
    cost: Spent
    history: list[dict[str, Any]] = Field(description="One object for every step.")
    details: dict[str, Any] = Field(description="What the method found on its way: the goal, the loss reached, the damping.")
    warnings: list[str] = Field(description="Sentences for the user.")

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The report in a file.

        Raises:
            InputError: The file is not valid JSON, has another schema version, or is not a report.
        """
        found = read_versioned(path, READ)
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            raise InputError(f"{path} is not a report of `unlearn run`: {wrong_in(error)}") from error

    def as_dict(self) -> dict[str, Any]:
        """The report as plain dicts and lists, without the keys that it does not have."""
        return self.model_dump(exclude_unset=True)

    def as_json(self) -> str:
        """The content of `report.json`.

        Raises:
            ValueError: A number is not finite.
        """
        return json.dumps(self.as_dict(), indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def json_schema() -> dict[str, Any]:
    """The JSON Schema of `report.json`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Report.model_json_schema()}


def json_schema_text() -> str:
    """The content of `report.schema.json`."""
    return json.dumps(json_schema(), indent=1) + "\n"


if __name__ == "__main__":
    print(json_schema_text(), end="")
