"""Pre-train the embedded models from scratch: `python -m unlearn_lib.pretraining [NAME ...] [--out DIR]`.

One tokenizer (byte-level BPE, digits apart) and six models, trained on the generated corpus with fixed seeds and written as
float16 safetensors beside a manifest of SHA-256 hashes. About two CPU hours for all six.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from unlearn_lib.data.nano.corpus import documents
from unlearn_lib.nano import CONTEXT, END, END_ID, FOLDER, PAD, SPECS, TOKENIZER, VOCABULARY, config, folder

CORPUS_SEED, HELD_OUT_SEED = 0, 1
TOKENIZER_DOCUMENTS = 20_000
BATCH = 8
WARM_UP = 50
WEIGHT_DECAY = 0.1
BETAS = (0.9, 0.98)


def train_tokenizer() -> Any:
    """Byte-level BPE of `VOCABULARY` tokens on the first documents of the corpus, as a fast transformers tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(islice(documents(CORPUS_SEED), TOKENIZER_DOCUMENTS), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, bos_token=END, model_max_length=CONTEXT
    )


def blocks(tokenizer: Any, seed: int) -> Iterator[Tensor]:
    """Endless blocks of token ids, `[CONTEXT]` each: documents one after the other, each ended by the end-of-text token."""
    stream, pending = documents(seed), []
    while True:
        texts = list(islice(stream, 256))
        for ids in tokenizer(texts, verbose=False)["input_ids"]:
            pending += [*ids, END_ID]
        while len(pending) >= CONTEXT:
            yield torch.tensor(pending[:CONTEXT])
            pending = pending[CONTEXT:]


def learning_rate(step: int, peak: float, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < WARM_UP:
        return peak * (step + 1) / WARM_UP
    return peak * 0.5 * (1 + math.cos(math.pi * (step - WARM_UP) / max(1, steps - WARM_UP)))


def pretrain(name: str, tokenizer: Any, *, steps: int | None = None) -> tuple[Any, dict[str, Any]]:
    """Train one model; returns it with a record of losses (mean NLL per token, nats) and cost."""
    from transformers import AutoModelForCausalLM

    spec = SPECS[name]
    steps = spec.steps if steps is None else steps
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(spec)).train()
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}], betas=BETAS, fused=True
    )
    stream, losses, start = blocks(tokenizer, CORPUS_SEED), [], time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, spec.learning_rate, steps)
        ids_BT = torch.stack(list(islice(stream, BATCH)))
        loss = model(input_ids=ids_BT, labels=ids_BT).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            recent = sum(losses[-100:]) / 100
            click.echo(f"{name}  step {step + 1:5d}/{steps}  loss {recent:.3f}  {time.perf_counter() - start:6.0f} s")
    model.eval()
    with torch.no_grad():
        held_out = torch.stack(list(islice(blocks(tokenizer, HELD_OUT_SEED), 64)))
        held_out_loss = sum(model(input_ids=b, labels=b).loss.item() for b in held_out.split(16)) / 4
    return model, {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "tokens": steps * BATCH * CONTEXT,
        "held_out_loss": round(held_out_loss, 4),
        "seconds": round(time.perf_counter() - start),
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
    }


def manifest_files(root: Path) -> dict[str, str]:
    """SHA-256 of every shipped file below `root`, by relative path."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    }


def save(model: Any, target: Path) -> None:
    """Write `config.json` and `model.safetensors` in float16."""
    model = model.half()
    model.config.dtype = torch.float16
    model.save_pretrained(target)


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), default=FOLDER, show_default="the package's own folder")
@click.option("--steps", type=int, default=None, help="fewer steps, for a trial")
@click.option("--threads", type=int, default=None, help="torch threads")
def main(names: tuple[str, ...], out: Path, steps: int | None, threads: int | None) -> None:
    """Train the named models (all of them by default) and write them with their manifest."""
    if threads:
        torch.set_num_threads(threads)
    for name in names:
        if name not in SPECS:
            raise click.BadParameter(f"{name!r} is not an embedded model; choose from {', '.join(SPECS)}")
    tokenizer = train_tokenizer()
    tokenizer.save_pretrained(out / TOKENIZER.name)
    records: dict[str, Any] = {}
    manifest_path = out / "manifest.json"
    if manifest_path.exists():
        records = json.loads(manifest_path.read_text())["models"]
    for name in names or SPECS:
        model, records[name] = pretrain(name, tokenizer, steps=steps)
        save(model, out / folder(name).name)
        manifest = {"files": manifest_files(out), "models": {key: records[key] for key in SPECS if key in records}}
        manifest_path.write_text(json.dumps(manifest, indent=1) + "\n")


if __name__ == "__main__":
    main()
