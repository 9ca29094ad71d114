"""Five requests of 8 texts, served one after the other and all at once, by methods of different kinds.

    python benchmarks/in_sequence.py [--model nano/opt-s] [--seed 0] [--out benchmarks/in_sequence.json]

The models and texts are those of eul_requests.py, which has the same for unlearning layers and their fusion: 120 texts of ten invented
words are known by heart, five requests of 8 are to be forgotten, 40 of the other 80 are given as the retain set, and the remaining 40 are
the ones outside, which nothing is computed from. Served in turn, each request is carried out on the model that the one before it left;
at once, one request of all texts so far is carried out on the original. Methods that can be told a goal forget until the loss is what the
original model has on unseen texts; the recipe of Jang et al. (arXiv 2210.01504) ends where what is known by heart is no more than of
unseen texts. An ensemble in shards and slices (SISA) is a model of its own, trained for as many gradients as the other one, so that it
has a line of its own before the first request.
"""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import torch
from eul_requests import divided, memorised

from unlearn_lib import TrainingConfig, load_model, text_losses, unlearn
from unlearn_lib.audit.in_turn import by_heart
from unlearn_lib.audit.requests import consecutive
from unlearn_lib.environment import provenance
from unlearn_lib.training.sisa import train_sisa

JANG = {
    f"gradient ascent (Jang et al.), {step:g}": {"method": "gradient-ascent", "preset": "jang", "step": step, "epochs": 200}
    for step in (1e-4, 5e-4)
}
"""The paper's rate is 5e-5, for models of 125 million parameters and more; small ones take larger ones."""
TOLD: dict[str, dict[str, Any]] = {
    "fisher-removal": {"method": "fisher-removal", "retain_limit": None},
    "constrained-newton": {"method": "constrained-newton", "retain_limit": None},
    "gradient-difference, KL": {
        "method": "gradient-difference", "retain_loss": "kl", "stop": "calibrate", "retain_limit": None, "epochs": 200,
        "learning_rate": 3e-4, "retain_weight": 10.0, "retain_batch_size": 32,
    },
}  # fmt: skip
"""Methods that are told the loss to come to."""
SHARDS, SLICES, RATE = 2, 2, 3e-3


def measure(name: str, seed: int) -> dict[str, Any]:
    """The losses before the first request and after each one, in turn and at once, and the gradients of single texts."""
    model, tokenizer, rows, epochs = memorised(name, seed)
    asked, retain, outside, unseen = divided(rows)

    def losses(of: Any) -> dict[str, Any]:
        parts = {"requests": asked, "retain": [retain], "outside": [outside], "unseen": [unseen]}
        found = {
            key: [round(float(text_losses(of, tokenizer, part).mean()), 3) for part in each] for key, each in parts.items()
        }
        return {key: each if key == "requests" else each[0] for key, each in found.items()}

    def both(label: str, options: dict[str, Any], start: Any = model, given: Any = retain) -> dict[str, Any]:
        """In turn, and after each request what one request of all texts so far gives."""
        served = consecutive(start, tokenizer, asked, losses, retain=given, seed=seed, **options)
        turns = [one.measured | {"gradients": one.cost.gradient_evaluations} if one.cost else one.measured for one in served]
        once = []
        for number in range(1, len(asked) + 1):
            result = unlearn(start, tokenizer, forget=[*chain(*asked[:number])], retain=given, seed=seed, **options)
            once.append(losses(result.model) | {"gradients": result.cost.gradient_evaluations})
        for way, entries in (("in turn", turns), ("at once", once)):
            click.echo(f"{name} {seed}, {label}, {way}: {entries[-1]}")
        return {"in turn": turns, "at once": once}

    found: dict[str, Any] = {"model": name, "seed": seed, "epochs": epochs, "ways": {}}
    goal_loss = float(text_losses(model, tokenizer, unseen).mean())
    for label, options in TOLD.items():
        found["ways"][label] = both(label, {**options, "target_loss": goal_loss})
    heart = by_heart(model, tokenizer, unseen)
    goal = {"unseen_accuracy": heart.accuracy, "unseen_likelihood": heart.likelihood}
    for label, options in JANG.items():
        found["ways"][label] = both(label, {**options, **goal})
    with TemporaryDirectory() as folder:
        config = TrainingConfig(2 * epochs / (SLICES + 1), RATE)
        base, known = load_model(name, device="cpu")[0], rows[: len(rows) - len(unseen)]
        ensemble = train_sisa(
            base, tokenizer, known, shards=SHARDS, slices=SLICES, config=config, seed=seed, folder=Path(folder) / "sisa"
        )
        found["ways"]["sisa"] = both("sisa", {"method": "sisa"}, ensemble, None)
    return found


@click.command()
@click.option("--model", "names", multiple=True, default=("nano/opt-s", "nano/neo-s"), show_default=True)
@click.option("--seed", "seeds", multiple=True, type=int, default=(0,), show_default=True)
@click.option("--out", default=Path(__file__).with_suffix(".json"), type=click.Path(path_type=Path))
def main(names: tuple[str, ...], seeds: tuple[int, ...], out: Path) -> None:
    """See the module's docstring."""
    torch.set_num_threads(1)
    runs = [measure(name, seed) for seed in seeds for name in names]
    content = {"environment": provenance(), "options": {**TOLD, **JANG}, "runs": runs}
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
