"""EUL on a sequence of requests: the layers of all fused in closed form, against one request for all texts and other ways.

    python benchmarks/eul_requests.py [--model nano/opt-s] [--out benchmarks/eul_requests.json]

A nano model learns 120 texts of ten invented words by heart. Five requests of 8 texts each are to be forgotten. Every request trains
layers of its own on the model itself until the loss on its texts is the held-out one (`stop="calibrate"`), with 40 of the other 80 texts
as the retain set; the remaining 40 are the ones outside, which nothing is computed from. After every request all layers so far are
fused. Compared are one request for all texts so far, and layers trained on top of those before (unlearning the last result further).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import torch
from memorising import text

from unlearn_lib import TrainingConfig, load_model, text_losses, train, unlearn
from unlearn_lib.environment import provenance
from unlearn_lib.methods.fusion import fuse, layer_moments

REQUESTS, EACH, RETAINED, OUTSIDE, UNSEEN = 5, 8, 40, 40, 64
STOP_AT, MOST_EPOCHS = 0.75, 160
OPTIONS: dict[str, Any] = {
    "method": "eul", "stop": "calibrate", "retain_limit": None, "epochs": 200, "learning_rate": 1e-3, "retain_batch_size": 32,
    "retain_weight": 10.0,
}  # fmt: skip
RIDGES = (0.0, 0.1)


def memorised(name: str, seed: int) -> tuple[Any, Any, list[dict[str, str]], int]:
    """`(model, tokenizer, texts, epochs)`: the model has learnt all texts but the last `UNSEEN`, in so many epochs."""
    model, tokenizer = load_model(name, device="cpu")
    known = REQUESTS * EACH + RETAINED + OUTSIDE
    rows = [text(seed, number) for number in (*range(known), *range(10_000, 10_000 + UNSEEN))]
    epochs = 0
    while epochs < MOST_EPOCHS and text_losses(model, tokenizer, rows[:known]).mean() > STOP_AT:
        train(model, tokenizer, rows[:known], TrainingConfig(4, 3e-3), seed=epochs)
        epochs += 4
    return model, tokenizer, rows, epochs


def divided(rows: list[dict[str, str]]) -> tuple[list[Any], Any, Any, Any]:
    """`(requests, retained, outside, unseen)` of the texts of `memorised`."""
    asked, rest = [rows[EACH * i : EACH * (i + 1)] for i in range(REQUESTS)], rows[REQUESTS * EACH :]
    return asked, rest[:RETAINED], rest[RETAINED : RETAINED + OUTSIDE], rest[RETAINED + OUTSIDE :]


def measure(name: str, seed: int) -> dict[str, Any]:
    """The losses after every request, by the way to handle them."""
    model, tokenizer, rows, _ = memorised(name, seed)
    asked, retain, outside, unseen = divided(rows)

    def losses(of: Any, number: int) -> dict[str, float]:
        parts = {"forget": rows[: EACH * number], "newest": asked[number - 1], "retain": retain, "outside": outside}
        return {key: round(float(text_losses(of, tokenizer, part).mean()), 3) for key, part in parts.items()}

    def forget(of: Any, texts: Any) -> Any:
        return unlearn(of, tokenizer, forget=texts, retain=retain, holdout=unseen, seed=seed, **OPTIONS)

    found: dict[str, Any] = {
        "model": name, "seed": seed, "unseen": round(float(text_losses(model, tokenizer, unseen).mean()), 3), "after": [],
    }  # fmt: skip
    models, moments, further = [], [], model
    for number in range(1, REQUESTS + 1):
        own, union = forget(model, asked[number - 1]), forget(model, rows[: EACH * number])
        further = forget(further, asked[number - 1]).model
        models.append(own.model)
        moments.append(layer_moments(own.model, tokenizer, asked[number - 1]))
        ways = {"before": model, "own layers": own.model, "one request for all": union.model, "on top": further}
        ways |= {f"fused, ridge {ridge:g}": fuse(models, moments, ridge=ridge) for ridge in RIDGES}
        entry: dict[str, Any] = {way: losses(of, number) for way, of in ways.items()}
        cost = {"own layers": own.cost.gradient_evaluations, "one request for all": union.cost.gradient_evaluations}
        found["after"].append({"requests": number, "losses": entry, "gradients": cost})
        for way, numbers in entry.items():
            click.echo(f"{name} {seed}, {number} requests, {way}: {numbers}")
        click.echo(f"  gradients: {cost}")
    return found


@click.command()
@click.option("--model", "names", multiple=True, default=("nano/opt-s", "nano/neo-s"), show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--out", default=Path(__file__).with_suffix(".json"), type=click.Path(path_type=Path))
def main(names: tuple[str, ...], seed: int, out: Path) -> None:
    """See the module's docstring."""
    torch.set_num_threads(1)
    runs = [measure(name, seed) for name in names]
    content = {"environment": provenance(), "options": OPTIONS, "runs": runs}
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
