"""The runs behind the paper's utility tables: train, then forget in consecutive cycles, and measure after each.

One scenario is one task, one model, one seed, one method. The base model is fine-tuned on D; then, cycle after cycle, the next
`cycle_size` random training samples are unlearned (the paper's removal cache). Everything is measured after every cycle over
all samples forgotten so far.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

import torch

from unlearn_lib.data.batches import context_length, encode, make_batches
from unlearn_lib.data.tasks import Task, load_task
from unlearn_lib.errors import InputError
from unlearn_lib.losses import mean_loss
from unlearn_lib.methods import METHODS
from unlearn_lib.metrics import accuracy, exposures
from unlearn_lib.models import load_model, manifest
from unlearn_lib.progress import Say
from unlearn_lib.reproduction.store import Record, RunStore
from unlearn_lib.training import TrainingConfig, fit
from unlearn_lib.unlearning import unlearn

NUMERICS_VERSION = 1
"""Raised by hand whenever a change of the code changes results, so that older records are no longer used."""

ORIGINAL = "original"


@dataclass(frozen=True)
class Scenario:
    """One run; `method` is a name in METHODS, perhaps with a suffix that tells two sets of options apart
    ("gradient-ascent-adam"), or "original" for the model before any unlearning."""

    task: str
    model: str
    seed: int
    method: str
    training: TrainingConfig
    options: dict[str, Any] = field(default_factory=dict)
    cycles: int = 2
    cycle_size: int = 32
    train_size: int = 512
    test_size: int = 400
    holdout_size: int = 256
    reference_size: int = 256

    @property
    def name(self) -> str:
        """A readable file name prefix."""
        return f"{self.task}-{self.model.removeprefix('nano/')}-{self.method}-{self.cycles}x{self.cycle_size}-seed{self.seed}"

    def sizes(self) -> dict[str, int]:
        return {
            "train": self.train_size,
            "test": self.test_size,
            "holdout": self.holdout_size,
            "reference": self.reference_size,
        }

    def config(self) -> dict[str, Any]:
        """Everything the results depend on, data hashes included."""
        model_files = {
            path: digest
            for path, digest in manifest()["files"].items()
            if path.startswith((self.model.removeprefix("nano/") + "/", "tokenizer/"))
        }
        return {
            "scenario": "forgetting-cycles",
            "numerics": NUMERICS_VERSION,
            "profile": "nano",
            **asdict(self),
            "data_sha256": _task_sha256(self.task, self.seed, tuple(self.sizes().items())),
            "model_sha256": model_files,
        }


def method_name(label: str) -> str:
    """The name in METHODS that a label begins with: `gradient-ascent-adam` is `gradient-ascent` with other options."""
    return next(name for name in METHODS if label == name or label.startswith(f"{name}-"))


@cache
def _task(name: str, seed: int, sizes: tuple[tuple[str, int], ...]) -> Task:
    return load_task(name, "nano", seed, dict(sizes))


@cache
def _task_sha256(name: str, seed: int, sizes: tuple[tuple[str, int], ...]) -> str:
    return _task(name, seed, sizes).sha256()


def run(scenarios: Iterable[Scenario], store: RunStore, report: Say = lambda line: None) -> list[Record]:
    """The records of the scenarios, in order; those that are missing are computed.

    Scenarios with the same task, model, seed and sizes share one original model, which is trained once. An interrupted call
    loses at most the scenario under way.
    """
    wanted = list(scenarios)
    groups: dict[str, list[Scenario]] = {}
    for scenario in wanted:
        if store.get(scenario.name, scenario.config()) is None:
            shared = {**scenario.config(), "method": None, "options": None, "cycles": None}
            group = groups.setdefault(repr(shared), [])
            if scenario not in group:
                group.append(scenario)
    for missing in groups.values():
        bench = Bench(missing[0])
        for scenario in missing:
            start = time.perf_counter()
            results, timing = bench.run(scenario)
            store.put(scenario.name, scenario.config(), results, timing)
            report(f"{scenario.name}: {time.perf_counter() - start:.0f} s")
    return load(wanted, store)


def load(scenarios: Iterable[Scenario], store: RunStore) -> list[Record]:
    """The finished records of the scenarios, in order.

    Raises:
        InputError: One is missing; the message says how to compute it.
    """
    records = []
    for scenario in scenarios:
        record = store.get(scenario.name, scenario.config())
        if record is None:
            raise InputError(
                f"no record of {scenario.name} in {store.folder}: it was never run, or data, options or numerics have changed since; "
                "compute it with `unlearn reproduce ID --runs`"
            )
        records.append(record)
    return records


class Bench:
    """One original model and what is needed to forget from it and to measure."""

    def __init__(self, scenario: Scenario, device: str = "cpu") -> None:
        self.task = _task(scenario.task, scenario.seed, tuple(scenario.sizes().items()))
        self.base, self.tokenizer = load_model(scenario.model, device=device)
        self.length = context_length(self.base, self.tokenizer)
        self.encoded = {
            part: encode(getattr(self.task, part), self.tokenizer, self.length).examples
            for part in ("train", "holdout", "reference")
        }
        order = torch.randperm(len(self.task.train), generator=torch.Generator().manual_seed(scenario.seed))
        self.order: list[int] = order.tolist()
        self.original = copy.deepcopy(self.base)
        start = time.perf_counter()
        fit(self.original, self.encoded["train"], scenario.training, seed=scenario.seed)
        self.training_seconds = time.perf_counter() - start

    def run(self, scenario: Scenario) -> tuple[dict[str, Any], dict[str, float]]:
        """(results, timing) of one scenario. Results: `before` and `after`, one entry per cycle."""
        sets = [self.order[: scenario.cycle_size * (cycle + 1)] for cycle in range(scenario.cycles)]
        results: dict[str, Any] = {"before": [self.measure(self.original, forgotten) for forgotten in sets]}
        if scenario.method == ORIGINAL:
            return results, {"training_seconds": self.training_seconds}
        results["after"], timing, model = [], {}, self.original
        for cycle, forgotten in enumerate(sets):
            new = forgotten[cycle * scenario.cycle_size :]
            result = unlearn(
                model,
                self.tokenizer,
                forget=self.task.train.select(new),
                retain=self.task.train.select(self._kept(forgotten)),
                base=self.base,
                method=method_name(scenario.method),
                seed=scenario.seed * 100 + cycle,
                batch_size=max(scenario.cycle_size, 32),
                **scenario.options,
            )
            model = result.model
            timing[f"cycle_{cycle + 1}_seconds"] = result.cost.seconds
            # the last step's own figures; its loss is from before the step and must not stand for the measured one
            step = {
                name: result.history[-1][name] for name in ("step_norm", "cosine_to_gradient") if name in result.history[-1]
            }
            results["after"].append(
                self.measure(model, forgotten) | step | {"gradient_evaluations": result.cost.gradient_evaluations}
            )
        return results, timing

    def _kept(self, forgotten: Sequence[int]) -> list[int]:
        gone = set(forgotten)
        return [i for i in range(len(self.task.train)) if i not in gone]

    def measure(self, model: Any, forgotten: Sequence[int]) -> dict[str, float]:
        """Losses (mean NLL per sequence, nats), accuracy (percent) and mean exposure of the forgotten samples (nats, bits)."""
        train_set = self.encoded["train"]
        sets = {
            "forget": [train_set[i] for i in forgotten],
            "retain": [train_set[i] for i in self._kept(forgotten)],
            "holdout": self.encoded["holdout"],
        }
        found = {f"{name}_loss": mean_loss(model, make_batches(part, 32, model.device)) for name, part in sets.items()}
        exposure = exposures(model, sets["forget"], self.encoded["reference"])
        return found | {
            "accuracy": accuracy(model, self.tokenizer, self.task.test),
            "exposure_nats": exposure.nats_n.mean().item(),
            "exposure_bits": exposure.bits_n.mean().item(),
        }
