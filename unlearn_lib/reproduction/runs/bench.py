"""Carry a scenario out: one original model, what is forgotten from it, and what is measured."""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.checkpoints import Workspace
from unlearn_lib.curvature import EmpiricalFisher
from unlearn_lib.data.batches import Example, context_length, encode, make_batches
from unlearn_lib.data.overlap import without
from unlearn_lib.losses import evaluate
from unlearn_lib.methods import METHODS
from unlearn_lib.methods.base import INCOMPLETE
from unlearn_lib.metrics import exposures
from unlearn_lib.metrics.accuracy import Questions
from unlearn_lib.metrics.indistinguishable import loss_attack_auc
from unlearn_lib.models.load import load_model, resolve_device
from unlearn_lib.reproduction.runs import profiles
from unlearn_lib.reproduction.runs.compared import Compared, by_length, compare, losses_and_distance
from unlearn_lib.reproduction.runs.details import DETAILS
from unlearn_lib.reproduction.runs.labels import ORIGINAL, PRIVATE
from unlearn_lib.reproduction.runs.scenarios import Scenario
from unlearn_lib.reproduction.runs.store import key
from unlearn_lib.reproduction.runs.weights import with_activation
from unlearn_lib.training.loop import fit
from unlearn_lib.training.private import PrivacyConfig, noise_for, train_private
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import Prepared, Result, carry_out, prepare


@dataclass(frozen=True)
class Trained:
    """The base model fine-tuned on some samples, and what that took."""

    model: Any
    seconds: float
    gradient_evaluations: int


@dataclass(frozen=True)
class Reached:
    """The model after a cycle, what was measured of it and found on the way, and the seconds of the cycle."""

    model: Any
    found: dict[str, Any]
    seconds: float


class Bench:
    """One original model, the models retrained without what was forgotten, and all that is measured of them.

    Args:
        scenario: One of those that share all of this.
        device: Where to compute; default: the profile's.
        workspace: Where models that were trained are kept, so that an interrupted bench goes on with them.

    Raises:
        InputError: The model was not trained yet.
        OutOfTimeError: The workspace's deadline has passed, here or in `run`; a new bench goes on from what was trained.
    """

    def __init__(self, scenario: Scenario, device: str | None = None, workspace: Workspace | None = None) -> None:
        self.scenario = scenario
        place = workspace or Workspace()
        self.workspace = place.below(scenario.original()) if place.folder else place
        self.task = scenario.load_task()
        self.device = resolve_device(device or profiles.find(scenario.profile).device)
        self.base, self.tokenizer = load_model(scenario.model, device="cpu")  # only ever copied
        if scenario.activation:
            self.base = with_activation(self.base, scenario.activation)
        length = context_length(self.base, self.tokenizer)
        self.encoded = {
            part: encode(getattr(self.task, part), self.tokenizer, length).examples
            for part in ("train", "holdout", "reference")
        }
        self.questions = Questions(self.task.test, self.tokenizer, length)
        order = torch.randperm(len(self.task.train), generator=torch.Generator().manual_seed(scenario.seed))
        self.order: list[int] = order.tolist()
        original = self.trained("original", self.encoded["train"], scenario.seed)
        self.original, self.training_seconds = original.model, original.seconds
        # once for each class of model, and here, so that no record's cost depends on what the process did before
        some = make_batches(self.encoded["train"][:2], 2, self.device)
        EmpiricalFisher(self.original, some).gradients().check()
        self._retrained: dict[int, Trained] = {}
        self._before: dict[int, dict[str, Any]] = {}
        self._prepared: dict[tuple[int, bool], Prepared] = {}
        self._reached: dict[str, Reached] = {}
        self._compared: dict[int, dict[str, list[Compared]]] = {}
        self._wanted: Counter[str] = Counter()

    def run(self, scenario: Scenario) -> tuple[dict[str, Any], dict[str, float]]:
        """(results, timing) of one scenario. Results: `before` and `after`, one entry per cycle, and its detail."""
        sizes = self.sizes(scenario)
        results: dict[str, Any] = {"before": [self.before(size) for size in sizes]}
        detail = DETAILS[scenario.detail]
        if scenario.method == ORIGINAL:
            return results | detail(self, self.original, sizes[-1]), {"training_seconds": self.training_seconds}
        results["after"], timing, model = [], {}, self.original
        for cycle in range(len(sizes)):
            reached = self._after(scenario, model, sizes[: cycle + 1])
            model, timing[f"cycle_{cycle + 1}_seconds"] = reached.model, reached.seconds
            results["after"].append(dict(reached.found))
        return results | detail(self, model, sizes[-1]), timing

    def expect(self, scenarios: Iterable[Scenario]) -> None:
        """Say which scenarios will be run: what several have in common is then kept from the first to the last of them."""
        for scenario in scenarios:
            sizes = self.sizes(scenario)
            self._wanted.update(_path(scenario, sizes[: n + 1]) for n in range(len(sizes)))

    def _after(self, scenario: Scenario, model: Any, sizes: Sequence[int]) -> Reached:
        """What the last of these cycles makes of `model`, which the others made of the original. Scenarios that differ in the number
        of cycles or in the detail alone begin with the same cycles, which are gone through once where they are expected."""
        path = _path(scenario, sizes)
        reached = self._reached.pop(path, None)
        if reached is None:
            new, found, seconds = self.forget(scenario, model, sizes[-1])
            reached = Reached(new, self.measure(new, sizes[-1]) | found, seconds)
        self._wanted[path] -= 1
        if self._wanted[path] > 0:
            self._reached[path] = reached
        return reached

    def sizes(self, scenario: Scenario) -> list[int]:
        """How many samples are gone after each cycle."""
        return [scenario.cycle_size * (cycle + 1) for cycle in range(scenario.cycles)]

    def start(self, scenario: Scenario, size: int) -> int:
        """How many samples were gone before the cycle that ends with `size`."""
        return size - scenario.cycle_size

    def forget(self, scenario: Scenario, model: Any, size: int) -> tuple[Any, dict[str, float], float]:
        """(new model, what the method says of itself, seconds) of the cycle that starts from `model` and ends with `size`."""
        if scenario.method == PRIVATE:
            return self._private(scenario)
        if scenario.method == "retrain":
            gold = self.retrained(size)
            return gold.model, {"incomplete": 0.0, "gradient_evaluations": gold.gradient_evaluations}, gold.seconds
        result = self._unlearn(scenario, model, size)
        # the last step's own figures; its loss is from before the step and must not stand for the measured one
        last = result.history[-1] if result.history else {}
        found: dict[str, float] = {name: last[name] for name in ("step_norm", "cosine_to_gradient") if name in last}
        found["incomplete"] = float(any(INCOMPLETE in warning for warning in result.warnings))
        found["gradient_evaluations"] = result.cost.gradient_evaluations
        return result.model, found, result.cost.seconds

    def _unlearn(self, scenario: Scenario, model: Any, size: int) -> Result:
        method = method_name(scenario.method)
        stops = "holdout" in METHODS[method].from_options(scenario.options).required()
        unseen = range(scenario.measured, len(self.task.holdout))  # not the texts that are measured
        request = Request(
            forget=self.task.train.select(self._cycle(size)),
            retain=self.task.train.select(self.kept(size)),
            holdout=self.task.holdout.select(unseen) if stops else None,
            base=self.base,
            method=method,
            seed=self._seed(size),
            batch_size=profiles.find(scenario.profile).batch_size,
            long_texts="cut",  # as the original was trained
            options=scenario.options,
        )
        if (size, stops) not in self._prepared:
            self._prepared[size, stops] = prepare(model, self.tokenizer, request)
        prepared = self._prepared[size, stops].asked(request)
        # of `unlearn`'s own look at the outcome no record holds anything, so it is as short as it can be: `measure` looks
        looked_at = {"forget": prepared.inputs.forget, "holdout": prepared.holdout_for_report}
        return carry_out(prepared, model, self.tokenizer, lambda *_: self.workspace.deadline.check(), sets=looked_at)

    def retrained(self, size: int) -> Trained:
        """Retraining as the original was trained, without the first `size` forgotten samples (and exact copies of this cycle's)."""
        if size not in self._retrained:
            kept = without(self._examples(self.kept(size)), self._examples(self._cycle(size)))
            self._retrained[size] = self.trained(f"retrained-{size}", kept, self._seed(size))
        return self._retrained[size]

    def _cycle(self, size: int) -> list[int]:
        """The indices of the samples of the cycle after which `size` samples are forgotten."""
        return self.order[self.start(self.scenario, size) : size]

    def _seed(self, size: int) -> int:
        """The seed of the cycle after which `size` samples are forgotten."""
        return self.scenario.seed * 100 + self.start(self.scenario, size) // self.scenario.cycle_size

    def before(self, size: int) -> dict[str, Any]:
        """What is measured of the original model, with `size` samples about to be forgotten."""
        if size not in self._before:
            self._before[size] = self.measure(self.original, size)
        return self._before[size]

    def kept(self, size: int) -> list[int]:
        """The indices of D+ after `size` samples were forgotten, in the data's own order."""
        return sorted(self.order[size:])

    def measure(self, model: Any, size: int) -> dict[str, Any]:
        """Losses (mean NLL per sequence, nats), accuracy (percent), mean exposure of the forgotten samples, the loss attack's AUC
        and the distances to the retrained model (nats a token)."""
        looked = {name: losses_and_distance(model, compared) for name, compared in self._looks(size).items()}
        losses = {name: losses_n for name, (losses_n, _) in looked.items()}
        exposure = exposures(model, self.parts(size)["forget"], self.encoded["reference"])
        return {
            **self.usual(model, losses),
            "exposure_nats": exposure.nats_n.mean().item(),
            "exposure_bits": exposure.bits_n.mean().item(),
            **{f"{name}_kl": kl for name, (_, kl) in looked.items()},
        }

    def losses(self, model: Any, parts: dict[str, list[Example]]) -> dict[str, Tensor]:
        """The losses on the parts."""
        return {name: evaluate(model, by_length(examples, self.device)) for name, examples in parts.items()}

    def usual(self, model: Any, losses: dict[str, Tensor]) -> dict[str, float]:
        """The mean losses of the parts, accuracy, and the loss attack's AUC."""
        self.workspace.deadline.check()
        return {
            **{f"{name}_loss": losses_n.double().mean().item() for name, losses_n in losses.items()},
            "accuracy": self.questions.accuracy(model),
            "attack_auc": loss_attack_auc(losses["forget"], losses["holdout"]),
        }

    def _looks(self, size: int) -> dict[str, list[Compared]]:
        """The parts, with what the retrained model predicts of them."""
        if size not in self._compared:
            gold = self.retrained(size).model
            self._compared[size] = {name: compare(gold, examples) for name, examples in self.parts(size).items()}
        return self._compared[size]

    def parts(self, size: int) -> dict[str, list[Example]]:
        """The forgotten samples, and the retained and held-out ones that are measured: always the same."""
        train, most = self.encoded["train"], self.scenario.measured
        return {
            "forget": [train[i] for i in self.order[:size]],
            "retain": [train[i] for i in self.order[size:][-most:]],
            "holdout": list(self.encoded["holdout"][:most]),
        }

    def _examples(self, indices: Iterable[int]) -> list[Example]:
        return [self.encoded["train"][i] for i in indices]

    def trained(self, name: str, examples: Sequence[Example], seed: int) -> Trained:
        """The base model fine-tuned on these samples; `name` is that of its file in the workspace."""
        model, training = copy.deepcopy(self.base).to(self.device), self.scenario.training
        # the folder's name stands for everything else
        checkpoint = self.workspace.checkpoint(name, key({"seed": seed, "examples": [e.input_ids for e in examples]}))
        fit(model, examples, training, seed=seed, checkpoint=checkpoint)
        return Trained(model, checkpoint.seconds, round(training.epochs * len(examples)))

    def _private(self, scenario: Scenario) -> tuple[Any, dict[str, float], float]:
        """Training on all of D with DP-SGD at `options["epsilon"]`; the other options are PrivacyConfig's."""
        options = dict(scenario.options)
        target = options.pop("epsilon")
        config = PrivacyConfig(noise_multiplier=0.0, **options)
        n = len(self.order)
        noise = noise_for(target, config.rate(n), config.steps(n), config.delta)
        model, start = copy.deepcopy(self.base).to(self.device), time.perf_counter()
        spent = train_private(
            model,
            self.tokenizer,
            self.task.train,
            PrivacyConfig(noise_multiplier=noise, **options),
            seed=scenario.seed,
            progress=lambda *_: self.workspace.deadline.check(),
        )
        found = {"epsilon": spent.epsilon, "noise_multiplier": noise, "gradient_evaluations": config.epochs * n}
        return model, found, time.perf_counter() - start


def _path(scenario: Scenario, sizes: Sequence[int]) -> str:
    """What the state after the last of these cycles depends on, of one original."""
    return key({"method": scenario.method, "options": scenario.options, "sizes": list(sizes)})


def method_name(label: str) -> str:
    """The name in METHODS that a label begins with: `gradient-ascent-adam` is `gradient-ascent` with other options."""
    return next(name for name in METHODS if label == name or label.startswith(f"{name}-"))
