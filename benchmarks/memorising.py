"""The default method, constrained Newton, on a model that knows its texts by heart: how much of the gap does it close, at what price?

    python benchmarks/memorising.py [--processes 3] [--out benchmarks/memorising.json]

A GPT-2 of 0.46 million parameters learns, from nothing, 316 texts of invented words until its loss on them is .7; on unseen
texts of the same kind it is then well above 2. 16 of the texts are forgotten with every option at its default. 240 of the others are
given as the retain set; the damage is what the remaining 60 suffer, which nothing is computed from and nothing is checked on.
"""

from __future__ import annotations

import json
import statistics
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import torch

from unlearn_lib import TrainingConfig, load_model, text_losses, train, unlearn
from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.environment import provenance

TEXTS, FORGET, GIVEN, UNSEEN = 316, 16, 240, 128
SEEDS = (0, 1, 2)
STOP_AT, MOST_EPOCHS = 0.75, 160
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "fisher-removal, 4 steps": {"method": "fisher-removal"},
    "blocks of 48, 4 steps": {"method": "fisher-removal", "solver": "block"},
    "gradient, one step": {"method": "fisher-removal", "solver": "identity", "steps": 1, "retain_limit": None},
}
WORDS = 300
WIDTH = 96
SYLLABLES = tuple(a + b for a in "b d f g k l m n p r s t v z".split() for b in "a e i o u".split())


def text(seed: int, number: int) -> dict[str, str]:
    """Ten of 300 invented words."""
    draw = Draw("memorising", seed, number)
    return {"text": " ".join(word(seed, draw.below(WORDS)) for _ in range(10)).capitalize() + "."}


def word(seed: int, number: int) -> str:
    """Two or three syllables."""
    draw = Draw("memorising", seed, "word", number)
    return "".join(draw.pick(SYLLABLES) for _ in range(draw.between(2, 3)))


def gpt2(seed: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=1024, n_positions=128, n_embd=WIDTH, n_layer=3, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        attn_implementation="eager", bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def one(seed: int) -> dict[str, Any]:
    """All variants on one model."""
    tokenizer = load_model("nano/opt-s", device="cpu")[1]
    rows, unseen = [text(seed, i) for i in range(TEXTS)], [text(seed, i) for i in range(10_000, 10_000 + UNSEEN)]
    model, epochs = gpt2(seed), 0
    sets: dict[str, Any] = {"forget": rows[:FORGET], "retain": rows[FORGET : FORGET + GIVEN], "holdout": unseen}
    measured = {**sets, "outside": rows[FORGET + GIVEN :]}

    def losses(of: Any) -> dict[str, float]:
        return {name: float(text_losses(of, tokenizer, part).double().mean()) for name, part in measured.items()}

    while losses(model)["retain"] > STOP_AT and epochs < MOST_EPOCHS:
        train(model, tokenizer, rows, TrainingConfig(2, 1e-3 if epochs > 24 else 2e-3), seed=epochs)
        epochs += 2
    before = losses(model)
    click.echo(f"seed {seed}: {epochs} epochs, {before}")
    found: dict[str, Any] = {"epochs": epochs, "before": before, "variants": {}}
    for label, options in VARIANTS.items():
        result = unlearn(model, tokenizer, batch_size=32, **sets, **options)
        after = losses(result.model)
        goal = result.details["goal"]
        found["variants"][label] = {
            "after": after,
            "closed": (after["forget"] - before["forget"]) / (goal - before["forget"]),
            **{
                label: (after[name] - before[name]) / (after["forget"] - before["forget"])
                for label, name in (("damage_ratio", "outside"), ("used_damage_ratio", "retain"))
            },
            "details": {name: result.details[name] for name in ("checked", "checked_loss") if name in result.details},
            "warnings": result.warnings,
            "cost": asdict(result.cost),
        }
        entry = found["variants"][label]
        click.echo(
            f"  {label}: closed {entry['closed']:.3f}, damage ratio {entry['damage_ratio']:.3f}, {after} {result.warnings}"
        )
    return found


def _pool(processes: int) -> Executor:
    return ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,))


@click.command()
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1))
@click.option("--out", default=Path(__file__).with_suffix(".json"), type=click.Path(path_type=Path))
def main(processes: int, out: Path) -> None:
    """See the module's docstring."""
    torch.set_num_threads(1)
    with _pool(processes) as pool:
        runs = list(pool.map(one, SEEDS))
    out.write_text(json.dumps({"environment": provenance(), "runs": runs}, indent=1) + "\n", encoding="utf-8")
    for label in VARIANTS:
        values = [(run["variants"][label]["closed"], run["variants"][label]["damage_ratio"]) for run in runs]
        closed, damage = (statistics.fmean(column) for column in zip(*values, strict=True))
        click.echo(f"{label}: {100 * closed:.1f} % of the gap closed, damage ratio {damage:.3f}")


if __name__ == "__main__":
    main()
