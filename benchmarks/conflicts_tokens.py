"""Where in a text does a method raise the loss: at the value that the text tells, or at the words around it?

    python benchmarks/conflicts_tokens.py [--model nano/opt-s] [--seed 0] [--out benchmarks/conflicts_tokens.json]

The models, texts and methods of `conflicts.py`, with the other side given, without Fisher Removal. A text to forget says for example that
somebody resides in Lusby. Its negative log-likelihood is a sum over its tokens; here it is split into the sum over the tokens of the
value and that over all others, in nats a text, as means over the 128 texts. "known" is the share of the texts in which the value still
has a probability above one half. All methods have the same mean loss a token, which is that of the retrained model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import torch
from conflicts import ASKED, ORIGINAL, RETRAINED, VARIANTS, Bench, rows

from unlearn_lib.data.batches import encode
from unlearn_lib.data.nano.conflicts import Claim
from unlearn_lib.environment import provenance
from unlearn_lib.files import write_text
from unlearn_lib.metrics.likelihood import score_texts

LEFT_OUT = ("Fisher Removal",)


def split_losses(model: Any, tokenizer: Any, asked: Sequence[tuple[str, str]]) -> dict[str, float]:
    """The means over (text, value) pairs, the value a word of the text: the NLL of the value's tokens and that of all others, in nats a
    text, and the share of the texts whose value has a probability above one half. Cost: a forward pass."""
    texts = [text for text, _ in asked]
    scores = score_texts(model, encode(rows(texts), tokenizer, 256).examples)
    value_n, around_n = [], []
    for score, (text, value) in zip(scores, asked, strict=True):
        before = len(tokenizer(text.rpartition(f" {value}")[0])["input_ids"])
        # nothing predicts the first token of a text
        told = score.nll_T[before - 1 : before - 1 + len(tokenizer(f" {value}")["input_ids"])].sum()
        value_n.append(told)
        around_n.append(score.nll_T.sum() - told)
    values, around = torch.stack(value_n), torch.stack(around_n)
    means = {"value": values.mean(), "around": around.mean(), "known": (values < torch.log(torch.tensor(2.0))).double().mean()}
    return {name: round(float(mean), 4) for name, mean in means.items()}


def to_forget(claims: Sequence[Claim]) -> list[tuple[str, str]]:
    """All texts to forget with the values that they tell."""
    sides = [(claim, ASKED[claim.group]) for claim in claims if claim.group in ASKED]
    return [(text, claim.values[side]) for claim, side in sides for text in claim.texts[side]]


def measure(name: str, seed: int) -> dict[str, Any]:
    """The original, the retrained model and the methods."""
    bench = Bench(name, seed)
    asked = to_forget(bench.claims)
    models = {ORIGINAL: bench.original, RETRAINED: bench.retrained}
    for label, options in VARIANTS.items():
        if label not in LEFT_OUT:
            models[label] = bench.unlearn(options, bench.retain["with"]).model
    found = {label: split_losses(model, bench.tokenizer, asked) for label, model in models.items()}
    for label, entry in found.items():
        click.echo(f"{name} {seed}, {label}: {entry}")
    return {"model": name, "seed": seed, "rows": found}


@click.command(help=__doc__)
@click.option("--model", "names", multiple=True, default=("nano/opt-s",), show_default=True)
@click.option("--seed", "seeds", multiple=True, type=int, default=(0,), show_default=True)
@click.option("--out", default=Path(__file__).with_suffix(".json"), type=click.Path(path_type=Path))
def main(names: tuple[str, ...], seeds: tuple[int, ...], out: Path) -> None:
    """See the module's docstring."""
    torch.set_num_threads(1)
    environment = provenance()
    runs = [measure(name, seed) for name in names for seed in seeds]
    settings = {"left out": LEFT_OUT, "retain": "with"}
    write_text(out, json.dumps({"environment": environment, "settings": settings, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
