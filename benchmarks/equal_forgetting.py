"""One cell of the table in methods.py: a model that knows its texts by heart forgets some of them, as far as retraining would.

The retained texts come in two parts. The `given` ones are all that a method gets to see: for its curvature, its right-hand side, or
the retain term of its loss. The others were learnt in the same training, and no method sees them. The damage on these *outside*
texts is what a user would find; on the *used* ones a method is measured on what it was fitted to.
"""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from unlearn_lib import unlearn
from unlearn_lib.checkpoints import Workspace
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.data.batches import make_batches
from unlearn_lib.environment import provenance
from unlearn_lib.errors import NumericsError
from unlearn_lib.losses import mean_loss
from unlearn_lib.methods import METHODS
from unlearn_lib.methods.base import INCOMPLETE
from unlearn_lib.methods.budget import FORWARD
from unlearn_lib.methods.replay import replay
from unlearn_lib.metrics.divergence import divergence
from unlearn_lib.reproduction.runs.bench import Bench
from unlearn_lib.reproduction.runs.record import Record
from unlearn_lib.reproduction.runs.scenarios import Scenario
from unlearn_lib.reproduction.runs.store import RunStore
from unlearn_lib.training.certified import train_certified_head
from unlearn_lib.training.loop import TrainingConfig
from unlearn_lib.training.sisa import train_sisa
from unlearn_lib.unlearning.cost import Cost

NUMERICS = 3
"""Raised by hand whenever a change of the code changes results, so that older records are no longer used."""
DRAWS = 3
BATCH = 32
ORIGINAL, RETRAIN = "original", "retrain"
FORGETTING, MEMORY, WRITTEN = "forgetting", "memory", "written"
OWN = "own_"
"""How options begin that are of this benchmark, and not of a method: they say how the model is trained of a method that takes one of
its own form."""


@dataclass(frozen=True)
class Setting:
    """Which model learns how many texts; `given` of the retained ones go to the methods, `unseen` and `compared` are measured on."""

    model: str = "nano/{family}-m"
    task: str = "arc_easy"
    train: int = 256
    forget: int = 16
    given: int = 160
    unseen: int = 128
    compared: int = 64
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(epochs=16, learning_rate=1e-3, batch_size=8))


@dataclass(frozen=True)
class Cell:
    """One record: a method with its options on one model. `measure` is what of it is measured: the outcome, the memory of a step, or
    what the original model writes."""

    setting: Setting
    family: str
    seed: int
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    measure: str = FORGETTING

    @property
    def name(self) -> str:
        """A readable file name prefix."""
        return f"{self.family}-{self.seed}-{self.method}"

    def config(self) -> dict[str, Any]:
        """Everything the record depends on."""
        named = {key: value for key, value in asdict(self).items() if key != "setting"}
        return {"benchmark": "methods", "numerics": NUMERICS, **asdict(self.setting), **named}

    def get(self, store: RunStore) -> Record | None:
        """The record, if it is there."""
        return store.get(self.name, self.config())

    def path(self, store: RunStore) -> Path:
        """Where the record lies, or would lie."""
        return store.path(self.name, self.config())


class Case:
    """One family and seed: the original, the retrained model, and how to measure. Trained models are kept in the workspace."""

    def __init__(self, setting: Setting, family: str, seed: int, workspace: Path | None = None) -> None:
        self.setting, self.family, self.seed = setting, family, seed
        scenario = Scenario(
            setting.task,
            setting.model.format(family=family),
            seed,
            ORIGINAL,
            setting.training,
            cycles=1,
            cycle_size=setting.forget,
            train_size=setting.train,
        )
        self.bench = Bench(scenario, device="cpu", workspace=Workspace(workspace))
        order, train = self.bench.order, self.bench.encoded["train"]
        self.forget = order[: setting.forget]
        self.given = sorted(order[setting.forget : setting.forget + setting.given])
        seen = {train[i] for i in [*self.forget, *self.given]}
        outside = [i for i in sorted(order[setting.forget + setting.given :]) if train[i] not in seen]
        places_of = {"forget": self.forget, "used": self.given, "retain": outside}
        self.texts = {name: [train[i] for i in places] for name, places in places_of.items()}
        self.texts["holdout"] = list(self.bench.encoded["holdout"][: setting.unseen])
        self.sets = {name: make_batches(texts, BATCH) for name, texts in self.texts.items()}
        # distances to the retrained model are taken on so many texts of each set
        self.compared = {name: batches[: -(-setting.compared // BATCH)] for name, batches in self.sets.items()}
        self.original = self.bench.original
        self.retrained = self.bench.retrained(setting.forget).model
        self.before, self.goal = self.losses(self.original), self.losses(self.retrained)

    def losses(self, model: Any) -> dict[str, float]:
        return {name: mean_loss(model, batches) for name, batches in self.sets.items()}

    def measure(self, model: Any, before: dict[str, float] | None = None) -> dict[str, float]:
        """Losses, damage ratios, and distances to the retrained model (nats a token) on all sets; `retain` means the outside texts. The
        losses that the ratios start from are those of the original, or `before`."""
        after, before = self.losses(model), before or self.before
        rise = {name: after[name] - before[name] for name in after}
        found = {f"{name}_loss": loss for name, loss in after.items()}
        for name, label in (("retain", "damage_ratio"), ("used", "used_damage_ratio")):
            found[label] = rise[name] / rise["forget"] if abs(rise["forget"]) > 1e-9 else 0.0
        return found | {f"{name}_kl": divergence(self.retrained, model, batches) for name, batches in self.compared.items()}

    def unlearn(self, method: str, options: dict[str, Any], seed: int, goal: float, original: Any = None) -> Any:
        known, task = METHODS[method].model_fields, self.bench.task
        options = {
            name: v.format(family=self.family) if isinstance(v, str) else v
            for name, v in options.items()
            if not name.startswith(OWN)
        }
        until: dict[str, Any] = {"target_loss": goal} if "target_loss" in known else {}
        return unlearn(
            self.original if original is None else original,
            self.bench.tokenizer,
            forget=task.train.select(self.forget),
            retain=task.train.select(self.given),
            base=self.bench.base,
            method=method,
            seed=seed,
            batch_size=BATCH,
            **options,
            **until,
        )

    def compute(self, method: str, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
        """(results, timing); noise methods are averaged over draws."""
        if method in (ORIGINAL, RETRAIN):
            return self.measure(self.original if method == ORIGINAL else self.retrained), {}
        if own_options(options):
            return self.compute_own(method, options)
        found: list[dict[str, float]] = []
        seconds = 0.0
        for draw in range(DRAWS if method == "fisher-forgetting" else 1):
            try:
                result = self.unlearn(method, options, self.seed + 100 * draw, self.goal["forget"])
            except NumericsError as error:  # a damping too small for float32, or a rate too large
                return self.measure(self.original) | {"reached": 0.0, "refused": str(error)}, {}
            seconds = result.cost.seconds
            short = any(INCOMPLETE in warning for warning in result.warnings)
            cosine = result.history[0].get("cosine_to_gradient") if result.history else None
            found.append(
                self.measure(result.model)
                | spent(result.cost)
                | {"steps": len(result.history), "reached": float(not short)}
                | ({"cosine_to_gradient": cosine} if cosine is not None else {})
            )
        return {name: statistics.fmean(entry[name] for entry in found) for name in found[0]}, {"seconds": seconds}

    def compute_own(self, method: str, options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, float]]:
        """(results, timing) of a method whose model has its own form: the damage is that since its own original, whose losses are in the
        results as `own_..._loss`. It has no goal to reach."""
        with TemporaryDirectory() as folder:
            original = self.own(method, own_options(options), Path(folder) / "model")
            before = self.losses(original)
            result = self.unlearn(method, options, self.seed, 0.0, original)
            found = self.measure(result.model, before) | {f"own_{name}_loss": loss for name, loss in before.items()}
        details = {"epsilon": result.details["epsilon_spent"]} if "epsilon_spent" in result.details else {}
        return found | spent(result.cost) | details, {"seconds": result.cost.seconds}

    def own(self, method: str, training: dict[str, Any], folder: Path) -> Any:
        """A model of the form that a method takes, trained on the texts that the original was trained on."""
        rows = self.bench.task.train.select(self.bench.order)
        if method == "sisa":
            config = replace(self.setting.training, epochs=2 * self.setting.training.epochs / (training["slices"] + 1))
            return train_sisa(
                self.bench.base, self.bench.tokenizer, rows, config=config, seed=self.seed, folder=folder, **training
            )
        return train_certified_head(self.bench.base, self.bench.tokenizer, rows, body_public=True, seed=self.seed, **training)

    def repeated(self, count: int) -> dict[str, int]:
        """How many of so many texts that the original model writes are texts that it has learnt, word for word."""
        texts, _ = replay(self.original, self.texts["used"], count, self.texts["forget"], BATCH, self.seed)
        written = [text.input_ids for text in texts]
        learnt = {name: {text.input_ids for text in self.texts[name]} for name in ("retain", "used", "forget")}
        again = {name: sum(text in known for text in written) for name, known in learnt.items()}
        return {
            "written": len(written),
            "outside": again["retain"],
            "outside_texts": len(learnt["retain"].intersection(written)),
            "used": again["used"],
            "forget": again["forget"],
        }

    def peak_memory(self, method: str, options: dict[str, Any]) -> int:
        """Peak bytes of live tensors in one step of a method."""
        known = METHODS[method].model_fields
        options = {name: value for name, value in options.items() if name not in ("budget", "retraining_epochs")}
        least = 2 if "anchor_texts" in known else 1  # its first step corrects nothing
        short: dict[str, Any] = {"steps": least} if "steps" in known else {}
        if not short and "epochs" in known:
            short = {"epochs": 0.05 if method in ("finetune", RETRAIN) else 1}
        with TemporaryDirectory() as folder:
            own = own_options(options)
            original = self.own(method, own, Path(folder) / "model") if own else None
            with Meter() as meter:
                self.unlearn(method, {**options, **short}, self.seed, self.before["forget"] + 0.02, original)
        return int(meter.peak)


def spent(cost: Cost) -> dict[str, float]:
    """What a method took: gradients of single texts, forward passes, and both as gradients."""
    gradients, passes = cost.gradient_evaluations, cost.forward_evaluations
    return {"gradient_evaluations": gradients, "forward_evaluations": passes, "cost": gradients + FORWARD * passes}


def own_options(options: dict[str, Any]) -> dict[str, Any]:
    """How the model of its own form is trained, where a method takes one."""
    return {name.removeprefix(OWN): value for name, value in options.items() if name.startswith(OWN)}


@lru_cache(maxsize=16)
def case(setting: Setting, family: str, seed: int, workspace: Path | None) -> Case:
    """The case, made when it is first needed in a process."""
    return Case(setting, family, seed, workspace)


def compute(cell: Cell, store: RunStore, workspace: Path | None) -> Record:
    """The record of a cell, computed unless it is there."""
    found = cell.get(store)
    if found is None:
        here = case(cell.setting, cell.family, cell.seed, workspace)
        if cell.measure == MEMORY:
            results, timing = {"peak_memory_bytes": here.peak_memory(cell.method, cell.options)}, dict[str, float]()
        elif cell.measure == WRITTEN:
            results, timing = here.repeated(cell.options["texts"]), {}
        else:
            results, timing = here.compute(cell.method, cell.options)
        found = store.put(cell.name, cell.config(), results, timing)
    return found


def default_workspace(root: Path) -> Path:
    """Where the trained models of this commit are kept."""
    return root / "build" / "benchmarks" / str(provenance()["commit"])
