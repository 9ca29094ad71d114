"""Two texts say different things of a person: which one does a model believe, and which one after the other is unlearned?

    python benchmarks/conflicts.py [--model nano/opt-s] [--seed 0] [--out benchmarks/conflicts.json]

A nano model learns what is said of 112 invented people on two topics (`unlearn_lib.data.nano.conflicts`), from 1424 texts, of which
80 are questions. Of some people two values are told: by as many formal as sloppy texts, by few and many of one style, or by few of one
style and many of the other. Of controls one value is told, or nothing. Forty further people, of whom one value is told, are asked about
in the training, too, so that the model learns what a question wants. Belief is measured by a question and by one wording of each style,
none of which was in any text on these people, and by the beginnings of texts that were learnt ("own words"): P(v) over the twelve
values of a topic (`unlearn_lib.metrics.belief`).

Then 128 texts are unlearned: of eight people all formal texts, of eight others all sloppy ones. A further eight people with the same
conflict are not asked about. Methods go as far as the retrained model's loss on what is forgotten. They are given 256 texts to retain,
either with all texts of the other side of the people who are asked about among them, or with none of them; all of these texts
were learnt, and none is to be forgotten. The options of first-order methods are those that the benchmark of methods found within a tenth
of retraining's cost on medium models; they were not tuned anew.

Finished runs are kept in build/benchmarks/, by commit, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import copy
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from equal_forgetting import default_workspace

from unlearn_lib import TrainingConfig, load_model, text_losses, train, unlearn
from unlearn_lib.data.nano.conflicts import FORMAL, QUESTION, SLOPPY, TOPICS, Claim, Group, Side, claims
from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.environment import provenance
from unlearn_lib.files import write_text
from unlearn_lib.methods import METHODS
from unlearn_lib.methods.base import INCOMPLETE
from unlearn_lib.metrics.belief import belief

ROOT = Path(__file__).resolve().parents[1]
MODELS, SEEDS = ("nano/opt-s", "nano/neo-s"), (0, 1, 2)
PROBES = (QUESTION, FORMAL, SLOPPY)
OWN = "own words"
PEOPLE, TAUGHT, RETAINED = 8, 20, 256
TRAINING = TrainingConfig(epochs=30, learning_rate=3e-3, batch_size=16)
STYLES: Group = (Side(FORMAL, 4), Side(SLOPPY, 4))
GROUPS: dict[str, Group] = {
    "formal asked": STYLES,
    "sloppy asked": STYLES,
    "not asked": STYLES,
    "few and many formal": (Side(FORMAL, 2), Side(FORMAL, 6)),
    "few and many sloppy": (Side(SLOPPY, 2), Side(SLOPPY, 6)),
    "few formal, many sloppy": (Side(FORMAL, 2), Side(SLOPPY, 6)),
    "many formal, few sloppy": (Side(FORMAL, 6), Side(SLOPPY, 2)),
    "only formal": (Side(FORMAL, 4),),
    "only sloppy": (Side(SLOPPY, 4),),
    "nothing": (),
}
TEACHERS: dict[str, Group] = {"taught formally": (Side(FORMAL, 4),), "taught sloppily": (Side(SLOPPY, 4),)}
ASKED = {"formal asked": 0, "sloppy asked": 1}
"""Which side of a group is to be forgotten."""
ORIGINAL, RETRAINED = "original", "retraining"
MATCHED: dict[str, Any] = {"retain_limit": None}
HELD: dict[str, Any] = {
    **MATCHED, "stop": "calibrate", "epochs": 100, "forget_batch_size": None, "retain_batch_size": 32, "retain_loss": "kl",
    "learning_rate": 1e-3,
}  # fmt: skip
VARIANTS: dict[str, dict[str, Any]] = {
    "gradient ascent": {
        **MATCHED, "method": "gradient-ascent", "stop": "calibrate", "epochs": 300, "optimizer": "adam", "step": 1e-4,
    },
    "task vector": {**MATCHED, "method": "task-vector", "learning_rate": 1e-3},
    "gradient difference, KL": {**HELD, "method": "gradient-difference", "retain_weight": 10.0},
    "NPO with KL": {**HELD, "method": "npo", "retain_weight": 30.0, "beta": 0.1},
    "constrained Newton": {**MATCHED, "method": "constrained-newton"},
    "Fisher Removal": {**MATCHED, "method": "fisher-removal"},
}  # fmt: skip
Rows = list[dict[str, str]]


def rows(texts: Sequence[str]) -> Rows:
    """As a data set."""
    return [{"text": text} for text in texts]


class Bench:
    """The texts of one seed, and the models that learnt them with and without those to forget."""

    def __init__(self, name: str, seed: int) -> None:
        self.seed = seed
        self.base, self.tokenizer = load_model(name, device="cpu")
        people = {group: (sides, PEOPLE) for group, sides in GROUPS.items()}
        everything = claims(seed, {**people, **{group: (sides, TAUGHT) for group, sides in TEACHERS.items()}})
        self.claims = [claim for claim in everything if claim.group in GROUPS]
        self.texts = texts_of(everything)
        draw = Draw("conflicts", seed, "retained")
        drawn = draw.sample(self.texts["rest"], min(RETAINED, len(self.texts["rest"])))
        other = self.texts["other side"]
        self.retain = {"without": rows(drawn), "with": rows([*other, *drawn[: max(0, RETAINED - len(other))]])}
        rest = [*self.texts["other side"], *self.texts["rest"]]
        self.original = self.learnt([*self.texts["forget"], *rest])
        self.retrained = self.learnt(rest)
        self.goal = self.losses(self.retrained)["forget"]

    def learnt(self, texts: Sequence[str]) -> Any:
        """A model that was trained on these texts."""
        model = copy.deepcopy(self.base)
        train(model, self.tokenizer, rows(texts), TRAINING, seed=self.seed)
        return model

    def losses(self, model: Any) -> dict[str, float]:
        """The mean loss of the texts to forget, of the other side's, and of all others that were learnt, in nats a token."""
        return {
            name: float(text_losses(model, self.tokenizer, rows(part)).double().mean()) for name, part in self.texts.items()
        }

    def measured(self, model: Any) -> dict[str, Any]:
        """Losses, and by probe and group what is believed."""
        return {
            "losses": rounded(self.losses(model)),
            "beliefs": {probe: believed(model, self.tokenizer, self.claims, probe) for probe in PROBES},
            OWN: recited(model, self.tokenizer, self.claims),
        }

    def unlearn(self, options: Mapping[str, Any], retain: Rows) -> Any:
        """A method's result, as far as the retrained model's loss."""
        return unlearn(
            self.original, self.tokenizer, forget=rows(self.texts["forget"]), retain=retain, seed=self.seed, batch_size=32,
            target_loss=self.goal, **options,
        )  # fmt: skip

    def unlearnt(self, options: Mapping[str, Any], retain: Rows) -> dict[str, Any]:
        """A method's result, measured, with its cost."""
        result = self.unlearn(options, retain)
        cost = result.cost
        spent = {"gradients": round(cost.gradient_evaluations), "seconds": round(cost.seconds, 1)}
        return {**self.measured(result.model), "cost": spent, "reached": not any(INCOMPLETE in w for w in result.warnings)}


def texts_of(everything: Sequence[Claim]) -> dict[str, list[str]]:
    """All texts in three parts: "forget", the "other side" of the same people, and the "rest" with the teachers' questions."""
    found: dict[str, list[str]] = {"forget": [], "other side": [], "rest": []}
    for claim in everything:
        for side, texts in enumerate(claim.texts):
            part = "rest" if claim.group not in ASKED else "forget" if side == ASKED[claim.group] else "other side"
            found[part] += texts
        if claim.group in TEACHERS:
            found["rest"].append(claim.answer)
    return found


def believed(model: Any, tokenizer: Any, asked: Sequence[Claim], probe: str) -> dict[str, dict[str, Any]]:
    """By group, as means over its claims: P of each side's value, P of a value that nobody stated (the mean of all of these), the share
    of claims in which each side's value is the likeliest of all twelve, and for two sides the share with the first likelier."""
    values = [TOPICS[claim.topic].values for claim in asked]
    found = belief(model, tokenizer, [claim.prompt(probe) for claim in asked], values)
    groups: dict[str, dict[str, Any]] = {}
    for group, sides in GROUPS.items():
        mine = [(claim, P_C, own) for claim, P_C, own in zip(asked, found, values, strict=True) if claim.group == group]
        p = torch.tensor([[float(P_C[own.index(v)]) for v in claim.values] for claim, P_C, own in mine], dtype=torch.float64)
        best = torch.tensor([[own[int(P_C.argmax())] == v for v in claim.values] for claim, P_C, own in mine]).double()
        unstated = torch.tensor([len(own) - len(sides) for _, _, own in mine])
        groups[group] = {
            "p": [round(x, 4) for x in p.mean(0).tolist()],
            "unstated": round(float(((1 - p.sum(1)) / unstated).mean()), 4),
            "best": [round(x, 4) for x in best.mean(0).tolist()],
        }
        if len(sides) == 2:
            groups[group]["first_likelier"] = round(float((p[:, 0] > p[:, 1]).double().mean()), 4)
    return groups


def recited(model: Any, tokenizer: Any, asked: Sequence[Claim]) -> dict[str, list[float]]:
    """By group, for each side: P of its value after the beginning of a text that the model learnt it from, the mean over the claims."""
    found = {}
    for group, sides in GROUPS.items():
        means = []
        for side in range(len(sides)):
            mine = [claim for claim in asked if claim.group == group]
            prompts = [claim.texts[side][0].rpartition(f" {claim.values[side]}")[0] for claim in mine]
            values = [TOPICS[claim.topic].values for claim in mine]
            P = belief(model, tokenizer, prompts, values)
            told = [float(P_C[own.index(c.values[side])]) for P_C, own, c in zip(P, values, mine, strict=True)]
            means.append(round(statistics.fmean(told), 4))
        found[group] = means
    return found


def rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    """To four digits after the point."""
    return {name: round(number, 4) for name, number in numbers.items()}


def measure(name: str, seed: int) -> dict[str, Any]:
    """One run: the original, the retrained model and all methods."""
    bench = Bench(name, seed)
    found: dict[str, Any] = {"model": name, "seed": seed, "texts": {part: len(texts) for part, texts in bench.texts.items()}}
    found["rows"] = {ORIGINAL: bench.measured(bench.original), RETRAINED: bench.measured(bench.retrained)}
    for label, options in VARIANTS.items():
        needs = "retain" in METHODS[options["method"]].needs or options.get("retain_loss") == "kl"
        for kind, retain in bench.retain.items():
            if needs or kind == "without":  # what looks at no retained text does the same with any
                found["rows"][f"{label}, {kind}" if needs else label] = bench.unlearnt(options, retain)
    for row, entry in found["rows"].items():
        told = {group: entry["beliefs"][QUESTION][group]["p"] for group in ("formal asked", "sloppy asked", "not asked")}
        click.echo(f"{name} {seed}, {row}: {entry['losses']} {told} {entry.get('cost', '')}")
    return found


@click.command(help=__doc__)
@click.option("--model", "names", multiple=True, default=MODELS, show_default=True)
@click.option("--seed", "seeds", multiple=True, type=int, default=SEEDS, show_default=True)
@click.option("--out", default=Path(__file__).with_suffix(".json"), type=click.Path(path_type=Path))
def main(names: tuple[str, ...], seeds: tuple[int, ...], out: Path) -> None:
    """See the module's docstring."""
    torch.set_num_threads(1)
    environment, folder, runs = provenance(), default_workspace(ROOT), list[dict[str, Any]]()
    for seed in seeds:
        for name in names:
            kept = folder / f"conflicts-{name.replace('/', '-')}-{seed}.json"
            if not kept.exists():
                write_text(kept, json.dumps(measure(name, seed)))
            runs.append(json.loads(kept.read_text(encoding="utf-8")))
    settings = {
        "people": PEOPLE, "taught": TAUGHT, "retained": RETAINED, "training": asdict(TRAINING),
        "groups": GROUPS, "variants": VARIANTS,
    }  # fmt: skip
    write_text(out, json.dumps({"environment": environment, "settings": settings, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
