"""Carry a scenario out: one original model, what is forgotten from it, and what is measured."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unlearn_lib.checkpoints import Workspace
from unlearn_lib.curvature import EmpiricalFisher
from unlearn_lib.data.batches import Example, context_length, encode, make_batches
from unlearn_lib.data.overlap import without
from unlearn_lib.losses import Batch, evaluate
from unlearn_lib.methods import METHODS
from unlearn_lib.methods.base import INCOMPLETE
from unlearn_lib.metrics import accuracy, exposures
from unlearn_lib.metrics.divergence import log_probs, sequence_divergences
from unlearn_lib.metrics.indistinguishable import loss_attack_auc
from unlearn_lib.models.load import load_model, resolve_device
from unlearn_lib.reproduction.runs import profiles
from unlearn_lib.reproduction.runs.labels import ORIGINAL, PRIVATE
from unlearn_lib.reproduction.runs.scenarios import Scenario
from unlearn_lib.reproduction.runs.store import key
from unlearn_lib.reproduction.runs.weights import last_projection, with_activation
from unlearn_lib.training.loop import fit
from unlearn_lib.training.private import PrivacyConfig, noise_for, train_private
from unlearn_lib.unlearning.unlearn import Result, unlearn

COMPARED = 64
"""Distances to the retrained model are taken on at most so many retained and held-out texts."""


@dataclass(frozen=True)
class Trained:
    """The base model fine-tuned on some samples, and what that took."""

    model: Any
    seconds: float
    gradient_evaluations: int


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
        self.workspace = place.below(f"{scenario.task}-{key(scenario.shared_config())[:12]}") if place.folder else place
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
        order = torch.randperm(len(self.task.train), generator=torch.Generator().manual_seed(scenario.seed))
        self.order: list[int] = order.tolist()
        original = self.trained("original", self.encoded["train"], scenario.seed)
        self.original, self.training_seconds = original.model, original.seconds
        # once for each class of model, and here, so that no record's cost depends on what the process did before
        some = make_batches(self.encoded["train"][:2], 2, self.device)
        EmpiricalFisher(self.original, some).gradients().check()
        self._retrained: dict[int, Trained] = {}
        self._before: dict[int, dict[str, Any]] = {}
        self._predictions: dict[int, dict[str, list[tuple[Batch, Tensor]]]] = {}

    def run(self, scenario: Scenario) -> tuple[dict[str, Any], dict[str, float]]:
        """(results, timing) of one scenario. Results: `before` and `after`, one entry per cycle, and its detail."""
        sizes = self.sizes(scenario)
        results: dict[str, Any] = {"before": [self.before(size) for size in sizes]}
        detail = DETAILS[scenario.detail]
        if scenario.method == ORIGINAL:
            return results | detail(self, self.original, sizes[-1]), {"training_seconds": self.training_seconds}
        results["after"], timing, model = [], {}, self.original
        for cycle, size in enumerate(sizes):
            model, found, seconds = self.forget(scenario, model, size)
            timing[f"cycle_{cycle + 1}_seconds"] = seconds
            results["after"].append(self.measure(model, size) | found)
        return results | detail(self, model, sizes[-1]), timing

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
        return unlearn(
            model,
            self.tokenizer,
            forget=self.task.train.select(self._cycle(size)),
            retain=self.task.train.select(self.kept(size)),
            holdout=self.task.holdout.select(unseen) if stops else None,
            base=self.base,
            method=method,
            seed=self._seed(size),
            batch_size=profiles.find(scenario.profile).batch_size,
            long_texts="cut",  # as the original was trained
            progress=lambda *_: self.workspace.deadline.check(),
            **scenario.options,
        )

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
        parts = self.parts(size)
        exposure = exposures(model, parts["forget"], self.encoded["reference"])
        return {
            **self.usual(model, parts),
            "exposure_nats": exposure.nats_n.mean().item(),
            "exposure_bits": exposure.bits_n.mean().item(),
            **{f"{name}_kl": kl for name, kl in self._distances(model, size).items()},
        }

    def usual(self, model: Any, parts: dict[str, list[Example]]) -> dict[str, float]:
        """The losses on the parts, accuracy, and the loss attack's AUC."""
        self.workspace.deadline.check()
        losses = {name: evaluate(model, self._batches(examples)) for name, examples in parts.items()}
        return {
            **{f"{name}_loss": losses_n.double().mean().item() for name, losses_n in losses.items()},
            "accuracy": accuracy(model, self.tokenizer, self.task.test),
            "attack_auc": loss_attack_auc(losses["forget"], losses["holdout"]),
        }

    def _distances(self, model: Any, size: int) -> dict[str, float]:
        """KL(retrained, model) on forgotten, retained and held-out texts; the retrained model predicts them once."""
        gold = self.retrained(size).model
        with torch.no_grad():
            if size not in self._predictions:
                self._predictions[size] = {
                    name: [(batch, log_probs(gold, batch)) for batch in self._batches(examples[:COMPARED])]
                    for name, examples in self.parts(size).items()
                }
            found = {
                name: [sequence_divergences(p_BSV, log_probs(model, batch), batch) for batch, p_BSV in predicted]
                for name, predicted in self._predictions[size].items()
            }
        return {name: torch.cat(kl_B).double().mean().item() for name, kl_B in found.items()}

    def parts(self, size: int) -> dict[str, list[Example]]:
        """The forgotten samples, and the retained and held-out ones that are measured: always the same."""
        train, most = self.encoded["train"], self.scenario.measured
        return {
            "forget": [train[i] for i in self.order[:size]],
            "retain": [train[i] for i in self.order[size:][-most:]],
            "holdout": list(self.encoded["holdout"][:most]),
        }

    def _batches(self, examples: Sequence[Example]) -> Any:
        return make_batches(sorted(examples, key=lambda example: len(example.input_ids)), 32, self.device)

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


def _nothing(bench: Bench, model: Any, size: int) -> dict[str, Any]:
    return {}


def _exposures(bench: Bench, model: Any, size: int) -> dict[str, Any]:
    """The exposure of every training sample (nats), in the data's own order; which were forgotten is `forgotten`."""
    found = exposures(model, bench.encoded["train"], bench.encoded["reference"])
    return {"exposures": [round(value, 4) for value in found.nats_n.tolist()], "forgotten": sorted(bench.order[:size])}


def _onion(bench: Bench, model: Any, size: int) -> dict[str, Any]:
    """Figure 6 as the text describes it: samples above a cutoff are dropped, the model is retrained, exposures are taken anew.

    The cutoff is the paper's: rank 1 or 2 among the references.
    """
    first = exposures(bench.original, bench.encoded["train"], bench.encoded["reference"])
    cutoff = math.log(bench.scenario.reference_size / 2.5)
    kept = [i for i, value in enumerate(first.nats_n.tolist()) if value < cutoff]
    rest = [bench.encoded["train"][i] for i in kept]
    again = bench.trained("onion", rest, bench.scenario.seed)
    left = exposures(again.model, rest, bench.encoded["reference"])
    return {
        "cutoff": cutoff,
        "exposures": [round(value, 4) for value in first.nats_n.tolist()],
        "kept": kept,
        "exposures_after": [round(value, 4) for value in left.nats_n.tolist()],
    }


def _weights(bench: Bench, model: Any, size: int) -> dict[str, Any]:
    """Figure 4: the last layer's weights beside the retrained model's."""
    return {"weights": last_projection(model, bench.retrained(size).model)}


DETAILS: dict[str, Callable[[Bench, Any, int], dict[str, Any]]] = {
    "": _nothing,
    "exposures": _exposures,
    "onion": _onion,
    "weights": _weights,
}


def method_name(label: str) -> str:
    """The name in METHODS that a label begins with: `gradient-ascent-adam` is `gradient-ascent` with other options."""
    return next(name for name in METHODS if label == name or label.startswith(f"{name}-"))
