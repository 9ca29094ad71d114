"""What a run record holds: the schema of the JSON files below `results/`, by the kind of run that their configuration names.

A record stays the JSON object that it is, because its key is the hash of its configuration: these types say which fields it has and
of which types they are, mypy checks every use of them, and pydantic checks every file that is read or written. Nothing is converted,
no field may be missing or be there besides, and no number stands for a truth value or a text.

    forgetting-cycles   `Scenario`: a model forgets in cycles, and is measured before and after each
    case-study          `Case`: one cycle on private texts, and what of them can be extracted
    methods             the benchmark of methods (`benchmarks/methods.py`)
    real                the same of a real language model (`benchmarks/real.py`)
    attacked            the audit of the methods' models (`benchmarks/attacked.py`)
    inference           attacks on whole documents, and with shadow models (`benchmarks/inference.py`)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from unlearn_lib.errors import wrong_in

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
Number = int | float
Option = bool | int | float | str | None


@with_config(STRICT)
class Training(TypedDict):
    """`TrainingConfig`."""

    epochs: Number
    learning_rate: float
    batch_size: int
    weight_decay: float
    clip_norm: float
    betas: list[float]


@with_config(STRICT)
class Provenance(TypedDict):
    """Where and with what a run was computed; see `environment.provenance`."""

    commit: str
    created: str
    python: str
    torch: str
    transformers: str
    processor: str
    device: str
    threads: int


@with_config(STRICT)
class _ScenarioConfig(TypedDict):
    """The fields of `Scenario`, and the hashes of data and model."""

    numerics: int
    profile: str
    task: str
    model: str
    seed: int
    method: str
    training: Training
    options: dict[str, Option]
    cycles: int
    cycle_size: int
    train_size: int
    test_size: int
    holdout_size: int
    reference_size: int
    measured: int
    detail: Literal["", "exposures", "onion", "weights"]
    activation: str
    model_sha256: dict[str, str]
    data_sha256: str


@with_config(STRICT)
class CyclesConfig(_ScenarioConfig):
    """The configuration of a `Scenario`."""

    scenario: Literal["forgetting-cycles"]


@with_config(STRICT)
class DrawsConfig(TypedDict):
    """`Draws`."""

    prefix: int
    number: int
    top_k: int


@with_config(STRICT)
class CaseConfig(_ScenarioConfig):
    """The configuration of a `Case`."""

    scenario: Literal["case-study"]
    duplicates: float
    deduplicate: bool
    long: int
    draws: DrawsConfig


@with_config(STRICT)
class _State(TypedDict):
    """What every run measures of a model (mean losses in nats, accuracy in percent), and what the method says of itself."""

    forget_loss: float
    retain_loss: float
    holdout_loss: float
    accuracy: float
    attack_auc: float
    step_norm: NotRequired[float]
    cosine_to_gradient: NotRequired[float]
    incomplete: NotRequired[float]
    gradient_evaluations: NotRequired[Number]


@with_config(STRICT)
class CycleState(_State):
    """A model before or after a cycle: exposure of the forgotten samples, distances to the retrained model, the cost of privacy."""

    exposure_nats: float
    exposure_bits: float
    forget_kl: float
    retain_kl: float
    holdout_kl: float
    epsilon: NotRequired[float]
    noise_multiplier: NotRequired[float]


@with_config(STRICT)
class Extraction(TypedDict):
    """How much of one private text comes back; `found` says it for every kind of planted personal data."""

    run: float
    rouge: float
    edit: float
    shared: float | None
    own: float | None
    found: dict[str, bool]


@with_config(STRICT)
class CaseState(_State):
    """A model before or after a case study."""

    near_duplicates: int
    extraction: list[Extraction]
    extraction_unseen: NotRequired[list[Extraction]]


@with_config(STRICT)
class Weights(TypedDict):
    """The last layer's weights beside the retrained model's; see `weights.last_projection`."""

    limit: float
    counts: list[int]
    retrained_counts: list[int]
    divergence: dict[str, float]
    relative_distance: float


@with_config(STRICT)
class CyclesResults(TypedDict):
    """One state for each cycle, and what the scenario's detail adds."""

    before: list[CycleState]
    after: NotRequired[list[CycleState]]
    exposures: NotRequired[list[float]]
    forgotten: NotRequired[list[int]]
    cutoff: NotRequired[float]
    kept: NotRequired[list[int]]
    exposures_after: NotRequired[list[float]]
    weights: NotRequired[Weights]


@with_config(STRICT)
class CaseResults(TypedDict):
    """The state before the cycle, and the one after it."""

    before: list[CaseState]
    after: NotRequired[list[CaseState]]


@with_config(STRICT)
class CyclesRecord(TypedDict):
    """The record of a `Scenario`."""

    config: CyclesConfig
    results: CyclesResults
    timing: dict[str, float]
    provenance: Provenance


@with_config(STRICT)
class CaseRecord(TypedDict):
    """The record of a `Case`."""

    config: CaseConfig
    results: CaseResults
    timing: dict[str, float]
    provenance: Provenance


@with_config(STRICT)
class BenchmarkConfig(TypedDict):
    """A cell of the benchmark of methods. Its first records had neither a `measure` nor texts kept from the methods."""

    benchmark: Literal["methods"]
    numerics: int
    task: str
    train: int
    forget: int
    training: Training
    family: str
    seed: int
    method: str
    options: dict[str, Option]
    model: NotRequired[str]
    given: NotRequired[int]
    unseen: NotRequired[int]
    compared: NotRequired[int]
    measure: NotRequired[str]


@with_config(STRICT)
class BenchmarkOutcome(TypedDict):
    """Losses, damage ratios and distances to the retrained model; `refused` says why a method would not run with its options. `own_...`
    are the losses of the model before, and `epsilon` what its removals spent, of a method with a model of its own form."""

    forget_loss: float
    retain_loss: float
    holdout_loss: float
    damage_ratio: float
    forget_kl: float
    retain_kl: float
    holdout_kl: float
    used_loss: NotRequired[float]
    used_damage_ratio: NotRequired[float]
    used_kl: NotRequired[float]
    gradient_evaluations: NotRequired[float]
    forward_evaluations: NotRequired[float]
    cost: NotRequired[float]
    steps: NotRequired[float]
    reached: NotRequired[float]
    cosine_to_gradient: NotRequired[float]
    own_forget_loss: NotRequired[float]
    own_used_loss: NotRequired[float]
    own_retain_loss: NotRequired[float]
    own_holdout_loss: NotRequired[float]
    epsilon: NotRequired[float]
    refused: NotRequired[str]


@with_config(STRICT)
class BenchmarkMemory(TypedDict):
    """The memory of one step of a method."""

    peak_memory_bytes: int


@with_config(STRICT)
class BenchmarkWritten(TypedDict):
    """How many texts a model wrote, and how many of them repeat a text that it has learnt, by where that text belongs."""

    written: int
    outside: int
    outside_texts: int
    used: int
    forget: int


@with_config(STRICT)
class BenchmarkRecord(TypedDict):
    """The record of a cell of the benchmark of methods."""

    config: BenchmarkConfig
    results: BenchmarkOutcome | BenchmarkMemory | BenchmarkWritten
    timing: dict[str, float]
    provenance: Provenance


@with_config(STRICT)
class RealConfig(TypedDict):
    """A cell of the benchmark of a real model: texts are TOFU's questions, whose hash is `data_sha256`."""

    benchmark: Literal["real"]
    numerics: int
    model: str
    model_sha256: str
    data_sha256: str
    authors: int
    outside: int
    unseen: int
    training: Training
    seed: int
    method: str
    options: dict[str, Option]
    adapter: int
    measure: Literal["losses", "all"]
    task: NotRequired[str]
    split: NotRequired[str]


@with_config(STRICT)
class RealOutcome(TypedDict):
    """Mean losses in nats by set of questions, damage ratios, what was spent; and of a whole measurement distances to the retrained
    model, how well the forgotten answers are still known, and the model's use for other texts."""

    forget_loss: float
    used_loss: float
    retain_loss: float
    holdout_loss: NotRequired[float]
    same_loss: NotRequired[float]
    damage_ratio: float
    used_damage_ratio: float
    same_damage_ratio: NotRequired[float]
    retraining: NotRequired[int]
    reached: NotRequired[float]
    refused: NotRequired[str]
    steps: NotRequired[int]
    gradient_evaluations: NotRequired[float]
    forward_evaluations: NotRequired[int]
    cost: NotRequired[float]
    peak_memory_bytes: NotRequired[int]
    attack_auc: NotRequired[float]
    extraction_strength: NotRequired[float]
    memorisation_accuracy: NotRequired[float]
    forget_probability: NotRequired[float]
    retain_probability: NotRequired[float]
    holdout_probability: NotRequired[float]
    same_probability: NotRequired[float]
    world_facts: NotRequired[float]
    prose_loss: NotRequired[float]
    forget_kl: NotRequired[float]
    used_kl: NotRequired[float]
    retain_kl: NotRequired[float]
    holdout_kl: NotRequired[float]
    same_kl: NotRequired[float]
    answers: NotRequired[list[str]]


@with_config(STRICT)
class RealRecord(TypedDict):
    """The record of a cell of the benchmark of a real model."""

    config: RealConfig
    results: RealOutcome
    timing: dict[str, float]
    provenance: Provenance


@with_config(STRICT)
class AttackedConfig(TypedDict):
    """A cell of the benchmark that audits the methods' models, which are those of the benchmark of methods."""

    benchmark: Literal["attacked"]
    numerics: int
    model: str
    task: str
    train: int
    forget: int
    given: int
    unseen: int
    compared: int
    training: Training
    family: str
    seed: int
    method: str
    options: dict[str, Option]
    relearning: float


@with_config(STRICT)
class AttackedOutcome(TypedDict):
    """The audit's verdict in a word, and the numbers of the table by their columns."""

    outcome: str
    numbers: dict[str, float]


@with_config(STRICT)
class AttackedRecord(TypedDict):
    """The record of a cell of the benchmark that audits the methods' models."""

    config: AttackedConfig
    results: AttackedOutcome
    timing: dict[str, float]
    provenance: Provenance


@with_config(STRICT)
class Told(TypedDict):
    """A method of a row of the benchmark of methods, with its options."""

    method: str
    options: dict[str, Option]


@with_config(STRICT)
class InferenceConfig(TypedDict):
    """One seed of an experiment of attacks on documents or with shadow models."""

    benchmark: Literal["inference"]
    numerics: int
    experiment: str
    model: str
    forget: int
    retain: int
    others: int
    shadows: int
    training: Training
    seed: int
    methods: dict[str, Told]


@with_config(STRICT)
class InferenceOutcome(TypedDict):
    """The numbers of the table by row and column."""

    rows: dict[str, dict[str, float]]


@with_config(STRICT)
class InferenceRecord(TypedDict):
    """The record of one seed of such an experiment."""

    config: InferenceConfig
    results: InferenceOutcome
    timing: dict[str, float]
    provenance: Provenance


ScenarioRecord = CyclesRecord | CaseRecord
Record = ScenarioRecord | BenchmarkRecord | RealRecord | AttackedRecord | InferenceRecord
KINDS: dict[str, TypeAdapter[Any]] = {
    "forgetting-cycles": TypeAdapter(CyclesRecord),
    "case-study": TypeAdapter(CaseRecord),
    "methods": TypeAdapter(BenchmarkRecord),
    "real": TypeAdapter(RealRecord),
    "attacked": TypeAdapter(AttackedRecord),
    "inference": TypeAdapter(InferenceRecord),
}
"""The schema of a record, by the `scenario` or `benchmark` that its configuration names."""
DETAILS: dict[str, set[str]] = {
    "": set(),
    "exposures": {"exposures", "forgotten"},
    "onion": {"cutoff", "exposures", "kept", "exposures_after"},
    "weights": {"weights"},
}
"""The fields that a detail adds to the results of a scenario."""


def problem(record: Mapping[str, Any]) -> str | None:
    """What is wrong with a record, in one line; None where it is what a run of its configuration gives.

    Args:
        record: A record, or what was read from a file that should be one; its `config` is a JSON object.
    """
    config = record["config"]
    kind = config.get("scenario", config.get("benchmark"))
    if not isinstance(kind, str) or kind not in KINDS:
        return f"its configuration is of no known kind: {kind!r} is none of {', '.join(KINDS)}"
    try:
        KINDS[kind].validate_python(record)
    except ValidationError as error:
        return wrong_in(error)
    return _unlike_its_configuration(record) if "scenario" in config else None


def _unlike_its_configuration(record: Mapping[str, Any]) -> str | None:
    """Whether results and timing of a scenario have one entry for each cycle, and what its method and its detail add."""
    config, results = record["config"], record["results"]
    original, cycles = config["method"] == "original", config["cycles"]
    expected = {"before"} | (set() if original else {"after"}) | DETAILS[config["detail"]]
    if set(results) != expected:
        return f"results: the fields are {', '.join(sorted(results))}, and should be {', '.join(sorted(expected))}"
    for part in expected & {"before", "after"}:
        if len(results[part]) != cycles:
            return f"results.{part}: {len(results[part])} states for {cycles} cycles"
    timed = {"training_seconds"} if original else {f"cycle_{cycle + 1}_seconds" for cycle in range(cycles)}
    if set(record["timing"]) != timed:
        return f"timing: the fields are {', '.join(sorted(record['timing']))}, and should be {', '.join(sorted(timed))}"
    return None
