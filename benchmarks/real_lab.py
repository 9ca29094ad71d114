"""One cell of the table in real.py: a real language model that learnt of some people forgets one of them.

Who is forgotten, used, outside and never learnt: see real_texts.py. Answers alone are scored, after the plain prompt
"Question: ...\\nAnswer:".
"""

from __future__ import annotations

import copy
import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from real_texts import Setting, learnt, people

from unlearn_lib import unlearn
from unlearn_lib.checkpoints import Workspace
from unlearn_lib.data.batches import encode, make_batches
from unlearn_lib.data.files import sha256
from unlearn_lib.data.nano import court
from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.data.questions import asked
from unlearn_lib.data.tofu import read_tofu
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.losses import evaluate
from unlearn_lib.methods import METHODS
from unlearn_lib.methods.base import INCOMPLETE
from unlearn_lib.methods.budget import FORWARD
from unlearn_lib.metrics.divergence import divergence
from unlearn_lib.metrics.generation import end_tokens, write_on
from unlearn_lib.metrics.indistinguishable import loss_attack_auc
from unlearn_lib.metrics.memorisation import extraction_strength, memorisation_accuracy, right_tokens
from unlearn_lib.models.load import load_model
from unlearn_lib.reproduction.runs.record import Record
from unlearn_lib.reproduction.runs.store import RunStore, key
from unlearn_lib.training.loop import fit

NUMERICS = 1
"""Raised by hand whenever a change of the code changes results, so that older records are no longer used."""
ORIGINAL, RETRAIN = "original", "retrain"
LOSSES, ALL = "losses", "all"
BATCH, LENGTH = 8, 256
HASHES = ("model_sha256", "data_sha256")
PROSE = 16
"""Texts of the repository's own prose, which is unlike TOFU."""
FACTS = "world_facts_perturbed"
ANSWERED, ASKED, TOKENS = 0, (0, 7, 14), 48
"""Of which draw answers are kept: to these questions on the forgotten author, and on one outside; their tokens at most."""


@dataclass(frozen=True)
class Cell:
    """One record: a method with its options on one draw of authors. With `adapter` a LoRA adapter of that rank is all that changes.
    `measure` is "losses" for tuning, "all" for the table."""

    setting: Setting
    seed: int
    method: str
    options: dict[str, Any] = field(default_factory=dict)
    adapter: int = 0
    measure: str = ALL

    @property
    def name(self) -> str:
        """A readable file name prefix."""
        return f"{self.seed}-{self.method}" + (f"-lora{self.adapter}" if self.adapter else "")


class Lab:
    """One draw of authors: the original, the retrained model, and how to measure.

    Args:
        setting, seed: Which draw.
        model: The folder of the base model.
        source: Where TOFU is, see `read_tofu`.
        device: As of `load_model`.
        workspace: Where trained models are kept, and when to stop.
    """

    def __init__(
        self, setting: Setting, seed: int, model: str | Path, source: str | Path, device: str, workspace: Workspace
    ) -> None:
        self.setting, self.seed, self.workspace = setting, seed, workspace
        self.rows = learnt(setting, seed, source)
        self.base, self.tokenizer = load_model(model, device=device)
        self.texts = {name: self._encoded(rows) for name, rows in self.rows.items()}
        self.batches = {name: make_batches(texts, BATCH, self.base.device) for name, texts in self.texts.items()}
        prose = [{"text": court.judgment(Draw("real", "prose", i))} for i in range(PROSE)]
        self.prose = make_batches(encode(prose, self.tokenizer, LENGTH, long_texts="cut").examples, BATCH, self.base.device)
        tofu = setting.task == "tofu"
        self.facts = read_tofu(source, FACTS, ("question", "answer", "perturbed_answer")) if tofu else []
        kept = [*self.texts["used"], *self.texts["retain"], *self.texts.get("same", ())]
        self.retraining = setting.training.epochs * len(kept)
        self.original = self._trained("original", [*self.texts["forget"], *kept])
        self.retrained = self._trained("retrained", kept)
        self.before = self.losses(self.original)
        self.goal = float(self.losses(self.retrained)["forget"].mean())

    def _encoded(self, rows: Sequence[Mapping[str, str]]) -> Any:
        return encode(rows, self.tokenizer, LENGTH).examples

    def _trained(self, name: str, examples: Any) -> Any:
        model = copy.deepcopy(self.base)
        told = {"seed": self.seed, "examples": [e.input_ids for e in examples], **self.setting.told()}
        checkpoint = self.workspace.checkpoint(f"{self.seed}-{name}-{key(told)[:8]}", key(told))
        fit(model, examples, self.setting.training, seed=self.seed, checkpoint=checkpoint)
        return model

    def losses(self, model: Any) -> dict[str, torch.Tensor]:
        """The losses `[n]` by set."""
        self.workspace.deadline.check()
        return {name: evaluate(model, batches).double().cpu() for name, batches in self.batches.items()}

    def measure(self, model: Any, what: str) -> dict[str, Any]:
        """Losses and damage ratios, and with `ALL` everything else that a record holds of a model, of the first draw answers, too."""
        after = self.losses(model)
        rise = {name: float(after[name].mean() - self.before[name].mean()) for name in after}
        found: dict[str, Any] = {f"{name}_loss": float(losses_n.mean()) for name, losses_n in after.items()}
        for name, label in (("retain", "damage_ratio"), ("used", "used_damage_ratio"), ("same", "same_damage_ratio")):
            if name not in rise:
                continue
            found[label] = rise[name] / rise["forget"] if abs(rise["forget"]) > 1e-6 else 0.0
        if what == LOSSES:
            return found
        right = right_tokens(model, self.texts["forget"], BATCH)
        found |= {
            "extraction_strength": float(extraction_strength(right).mean()),
            "memorisation_accuracy": memorisation_accuracy(right),
            # TOFU's probability of an answer: that of its tokens, in geometric mean
            **{f"{name}_probability": float((-losses_n).exp().mean()) for name, losses_n in after.items() if name != "used"},
            "prose_loss": float(evaluate(model, self.prose).double().mean()),
            **{f"{name}_kl": divergence(self.retrained, model, batches) for name, batches in self.batches.items()},
        }
        if "holdout" in after:
            found["attack_auc"] = loss_attack_auc(after["forget"], after["holdout"])
        if self.facts:
            found["world_facts"] = self.world_facts(model)
        return found | ({"answers": self.answers(model)} if self.seed == ANSWERED else {})

    def world_facts(self, model: Any) -> float:
        """TOFU's normalised probability of the right answers to questions on the world: exp(-loss) over the sum of all choices'."""
        choices = [[row["answer"], *row["perturbed_answer"]] for row in self.facts]
        texts = [asked(row["question"], answer) for row, answers in zip(self.facts, choices, strict=True) for answer in answers]
        p_n = (-evaluate(model, make_batches(self._encoded(texts), 4 * BATCH, model.device)).double()).exp()
        return statistics.fmean(float(p_k[0] / p_k.sum()) for p_k in p_n.split([len(answers) for answers in choices]))

    def answers(self, model: Any) -> list[str]:
        """What a model answers, greedily, to three questions on the forgotten author and three on an author outside."""
        ends, found = end_tokens(model), []
        for row in [
            self.rows[name][number] for name in ("forget", "retain") for number in ASKED if number < len(self.rows[name])
        ]:
            ids = self.tokenizer(row["prompt"], return_tensors="pt")["input_ids"].to(model.device)
            written = write_on(
                model, ids, max_new_tokens=TOKENS, do_sample=False, eos_token_id=list(ends), pad_token_id=ends[0]
            )
            found.append(self.tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True).strip())
        return found

    def adapted(self, rank: int) -> Any:
        """The original with a new LoRA adapter, which is all that can change."""
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(self.seed)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(copy.deepcopy(self.original), config)

    def compute(self, cell: Cell) -> tuple[dict[str, Any], dict[str, float]]:
        """(results, timing) of a cell."""
        if cell.method in (ORIGINAL, RETRAIN):
            found = self.measure(self.original if cell.method == ORIGINAL else self.retrained, cell.measure)
            return found | {"retraining": self.retraining}, {}
        until: dict[str, Any] = {"target_loss": self.goal} if "target_loss" in METHODS[cell.method].model_fields else {}
        model = self.adapted(cell.adapter) if cell.adapter else self.original
        try:
            result = unlearn(
                model,
                self.tokenizer,
                forget=self.rows["forget"],
                retain=self.rows["used"],
                base=self.base,
                method=cell.method,
                seed=self.seed,
                batch_size=BATCH,
                max_length=LENGTH,
                progress=lambda *_: self.workspace.deadline.check(),
                **cell.options,
                **until,
            )
        except NumericsError as error:  # a rate that is too large
            return self.measure(self.original, LOSSES) | {"reached": 0.0, "refused": str(error)}, {}
        cost = result.cost
        spent = {
            "reached": float(not any(INCOMPLETE in warning for warning in result.warnings)),
            "steps": len(result.history),
            "gradient_evaluations": float(cost.gradient_evaluations),
            "forward_evaluations": cost.forward_evaluations,
            "cost": float(cost.gradient_evaluations + FORWARD * cost.forward_evaluations),
            "peak_memory_bytes": cost.peak_memory_bytes,
        }
        return self.measure(result.model, cell.measure) | spent, {"seconds": cost.seconds}


@dataclass
class Bench:
    """The records of cells: found, or computed in the lab of their draw, of which one is kept in memory."""

    store: RunStore
    model: Path
    source: str
    device: str
    workspace: Workspace
    _lab: Lab | None = None
    _hashes: dict[str, str] = field(default_factory=dict)

    def as_recorded(self, task: str) -> bool:
        """Look for the records of the model and the texts that the store's records of a task name, which need not be on this machine;
        returns whether there are any.

        Raises:
            InputError: They are of several models or texts.
        """
        told = [json.loads(path.read_text(encoding="utf-8"))["config"] for path in sorted(self.store.folder.glob("*.json"))]
        found = {tuple(config[name] for name in HASHES) for config in told if config.get("task", "tofu") == task}
        if len(found) > 1:
            raise InputError(f"{self.store.folder} holds records of {task} of {len(found)} models and texts; it should be one")
        if found:
            self._hashes = dict(zip(HASHES, found.pop(), strict=True))
        return bool(self._hashes)

    def config(self, cell: Cell) -> dict[str, Any]:
        """Everything a record depends on."""
        if not self._hashes:
            self._hashes["model_sha256"] = sha256(self.model / "model.safetensors")
            self._hashes["data_sha256"] = data_sha256(cell.setting.task, self.source)
        own = {name: value for name, value in asdict(cell).items() if name != "setting"}
        return {"benchmark": "real", "numerics": NUMERICS, **cell.setting.told(), **own, **self._hashes}

    def get(self, cell: Cell) -> Record | None:
        """The record, if it is there."""
        return self.store.get(cell.name, self.config(cell))

    def compute(self, cell: Cell) -> Record:
        """The record, computed unless it is there."""
        found = self.get(cell)
        if found is None:
            if self._lab is None or (self._lab.setting, self._lab.seed) != (cell.setting, cell.seed):
                self._lab = None  # before the next one takes its memory
                self._lab = Lab(cell.setting, cell.seed, self.model, self.source, self.device, self.workspace)
            results, timing = self._lab.compute(cell)
            found = self.store.put(cell.name, self.config(cell), results, timing)
        return found


def machine(provenance: Mapping[str, Any]) -> str:
    """Where a record was computed, in words."""
    return str(
        provenance["device"]
        if provenance["device"] != "cpu"
        else f"{provenance['threads']} threads of {provenance['processor']}"
    )


def data_sha256(task: str, source: str | Path) -> str:
    """The hash of everything that there is to learn."""
    if task == "tofu":
        rows: list[dict[str, Any]] = read_tofu(source)
    else:
        rows = [row for person in people(task, source) for row in person.everything]
    return hashlib.sha256(repr([sorted(row.items()) for row in rows]).encode()).hexdigest()


def tuned(cell: Cell, place: Mapping[str, float]) -> Cell:
    """A cell with other options, measured by its losses alone."""
    return replace(cell, options={**cell.options, **place}, measure=LOSSES)
