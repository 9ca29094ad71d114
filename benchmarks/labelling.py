"""What to label: an auditor with labels for 200 of 480 texts that a model wrote looks for those that leak.

    python benchmarks/labelling.py [--out benchmarks/labelling.json]   computes the models that the file has not got, one after the other

A nano model learns 64 private mails and 64 public reports by heart, and writes 480 texts after the beginnings of its mails, of other
mails, of its reports and of ordinary texts. A text leaks where the account or the phone number of a mail that was learnt stands in it.
A logistic regression on the text's embedding (mean last hidden state), its loss and its zlib ratio says how probably it leaks.

Every auditor starts with the same 20 random texts, whose labels are exact and count like all others, and asks for 20 more in each of
nine rounds, by one of the policies of `unlearn_lib.audit.labelling`, or by the loss of the text under the model alone, the lowest first
("loss"). The annotator is exact, or misreads one in five texts ("noisy"), or sees the five nearest of the 20 trusted texts as
demonstrations besides ("demonstrations"); see `labelling_annotator.py`. Noisy labels count alike, or have weights learnt from the
trusted ones ("reweighted"). Classifiers are judged on the rest of the pool, and on 480 further texts, written in the same way.

The ridge of the classifier (1 for exact labels, 100 for noisy ones), and the steps and the rate by which weights are learnt, were chosen
on pools of the seed 1000, by the average precision on its held-out texts after 200 random labels, for each kind of label by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from labelling_annotator import Annotator, demonstrations, model_scores, quality, vote
from labelling_pool import KINDS, Pool, lab
from labelling_rounds import BY_LOSS, Auditor, Case, Plan, audit, mean_of, precision, reweighting

from unlearn_lib import load_model
from unlearn_lib.audit.labelling import POLICIES, choose
from unlearn_lib.audit.reweighting import leak_probabilities
from unlearn_lib.environment import provenance
from unlearn_lib.files import write_text

MODELS, SEEDS, NUMERICS = ("nano/opt-s", "nano/neo-s"), (0, 1, 2), 1


AUDITORS = {
    "exact": Auditor(Annotator(0.0), 1.0),
    "noisy": Auditor(Annotator(0.2), 100.0),
    "noisy, reweighted": Auditor(Annotator(0.2), 100.0, True),
    "demonstrations": Auditor(Annotator(0.2, 5), 100.0),
}


def annotators(models: Mapping[str, tuple[Any, Any]], case: Case, plan: Plan, seed: int) -> list[dict[str, Any]]:
    """What demonstrations do to the answers: of the simulated annotator on the whole pool; of language models, and of the vote of the
    demonstrations themselves, on a part of it."""
    pool, features_ND, found = case.pool, case.features_ND, []
    trusted = choose("random", features_ND, np.zeros(len(pool.texts)), (), plan.trusted, seed=seed)
    others = [i for i in range(len(pool.texts)) if i not in set(trusted)]
    asked = others[:: max(1, len(others) // plan.asked)]
    for choice in ("nearest", "random"):
        for k in plan.shown if choice == "nearest" else plan.shown[1:]:
            shown = {text: demonstrations(features_ND, text, trusted, k, choice, seed) for text in others}
            for noise in plan.noises:
                read_N, who = Annotator(noise).read(pool.leaks_N, seed), Annotator(noise, k)
                said_N = np.array([who.answer(bool(read_N[i]), [bool(pool.leaks_N[j]) for j in shown[i]]) for i in others])
                row = {"who": f"simulated, noise {noise:g}", "choice": choice, "k": k}
                found.append(row | quality(said_N, pool.leaks_N[others]))
            if k:
                vote_N = np.array([np.mean(pool.leaks_N[shown[i]]) for i in asked])
                found.append({"who": "the vote alone", "choice": choice, "k": k, **vote(vote_N, pool.leaks_N[asked])})
            for name, (model, tokenizer) in models.items():
                area, error = model_scores(model, tokenizer, pool, asked, [shown[i] for i in asked])
                found.append({"who": name, "choice": choice, "k": k, "auc": area, "error": error})
    return found


def measure(name: str, seed: int, plan: Plan) -> dict[str, Any]:
    """Everything on one model."""
    model, tokenizer, pool, held_out = lab(name, seed, plan.texts)
    case = Case.of(pool, held_out)
    models = {"base model": load_model(name, device="cpu"), "the model itself": (model, tokenizer)}
    everything = leak_probabilities(case.features_ND, pool.leaks_N, None, case.held_out_MD)
    found: dict[str, Any] = {
        "pools": [about(of) for of in (pool, held_out)],
        "by_loss": precision(held_out.leaks_N, -held_out.loss_N),
        "all_labels": precision(held_out.leaks_N, everything),
        "annotators": annotators(models, case, plan, seed),
        "reweighting": {},
        "curves": {},
    }
    for trusted in plan.trusted_sizes:
        found["reweighting"][str(trusted)] = mean_of([reweighting(case, plan, trusted, draw) for draw in range(plan.draws)])
    for label, auditor in AUDITORS.items():
        found["curves"][label] = {}
        for policy in (*POLICIES, BY_LOSS):
            draws = [audit(case, policy, auditor, plan, draw) for draw in range(plan.draws)]
            found["curves"][label][policy] = [mean_of(rounds) for rounds in zip(*draws, strict=True)]
    return found


def about(pool: Pool) -> dict[str, Any]:
    """How many texts there are, which share of them leaks, and the mean loss, by what the model was given."""
    kinds = {kind: pool.kind_N == i for i, kind in enumerate(KINDS)}
    return {
        "texts": len(pool.texts),
        "leaks": float(pool.leaks_N.mean()),
        "by_kind": {
            kind: {"texts": int(own.sum()), "leaks": float(pool.leaks_N[own].mean()), "loss": float(pool.loss_N[own].mean())}
            for kind, own in kinds.items()
        },
    }


def settings(plan: Plan) -> dict[str, Any]:
    """What the numbers depend on beside model and seed."""
    auditors = {label: asdict(auditor) for label, auditor in AUDITORS.items()}
    told = {"plan": asdict(plan), "auditors": auditors, "numerics": NUMERICS}
    return json.loads(json.dumps(told))  # type: ignore[no-any-return]


def computed(out: Path, plan: Plan, names: Sequence[str] = MODELS, seeds: Sequence[int] = SEEDS) -> None:
    """Add the models that are missing to a file, each as soon as it is there. What was computed with other settings goes."""
    told = settings(plan)
    before = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    runs = before["runs"] if before.get("settings") == told else []
    environment = before["environment"] if runs else provenance()
    for seed in seeds:
        for name in names:
            if not any((run["model"], run["seed"]) == (name, seed) for run in runs):
                runs.append({"model": name, "seed": seed, **measure(name, seed, plan)})
                runs.sort(key=lambda run: (names.index(run["model"]), run["seed"]))
                write_text(out, json.dumps({"environment": environment, "settings": told, "runs": runs}, indent=1) + "\n")
                click.echo(f"{name}, seed {seed}")


@click.command(help=__doc__)
@click.option("--out", default=Path(__file__).with_suffix(".json"), type=click.Path(path_type=Path))
def main(out: Path) -> None:
    """See the module's docstring."""
    torch.set_num_threads(1)
    computed(out, Plan())


if __name__ == "__main__":
    main()
