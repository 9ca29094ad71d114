"""Pre-train models from scratch: `python -m unlearn_lib.models.pretraining [NAME ...] [--out DIR]`.

A tokenizer (byte-level BPE, digits apart) and the models of one set, `nano/` (all six without a NAME) or `gpu/`, trained with
fixed seeds and written as safetensors beside a manifest of SHA-256 hashes. About two CPU hours for all of `nano/`. Interrupted
training goes on from its last checkpoint.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import astuple, replace
from itertools import islice
from pathlib import Path
from typing import Any

import click
import torch

from unlearn_lib.checkpoints import NOT_FINISHED, Checkpoint, Deadline, OutOfTimeError
from unlearn_lib.errors import NumericsError, unknown
from unlearn_lib.files import by_umask, new_folder, write_text
from unlearn_lib.models.load import RECIPES, resolve_device
from unlearn_lib.models.recipes import END, PAD, Recipe, file_hashes
from unlearn_lib.progress import Say

WEIGHT_DECAY = 0.1
BETAS = (0.9, 0.98)
REPORT_EVERY = 100
SHARED = ("vocabulary", "context", "local_window", "batch", "micro_batch", "warm_up", "autocast")
"""What a training depends on beside its spec and the tokenizer."""


def train_tokenizer(recipe: Recipe) -> Any:
    """Byte-level BPE of the recipe's vocabulary on its corpus, as a fast transformers tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(recipe.corpus(recipe.folder).tokenizer_texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, bos_token=END, model_max_length=recipe.context
    )


def learning_rate(step: int, peak: float, steps: int, warm_up: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def pretrain(
    recipe: Recipe,
    name: str,
    tokenizer: Any,
    *,
    steps: int | None = None,
    device: str = "cpu",
    checkpoint: Checkpoint | None = None,
    say: Say = click.echo,
) -> tuple[Any, dict[str, Any]]:
    """Train one model; returns it with a record of losses (mean NLL per token, nats) and cost.

    Args:
        recipe: The set that the model belongs to.
        name: A name in `recipe.specs`.
        tokenizer: Of the set.
        steps: Fewer steps than the spec has, for a trial.
        device: As of `load_model`. On a GPU with the recipe's number format for products, on a CPU always in float32.
        checkpoint: Where to go on from and to save to. Interrupted training ends with the weights of uninterrupted training,
            bit for bit on a CPU.
        say: Called with a line every `REPORT_EVERY` steps.

    Raises:
        OutOfTimeError: The checkpoint's deadline has passed.
        NumericsError: The loss is not finite.
    """
    from transformers import AutoModelForCausalLM

    spec, place, corpus = recipe.specs[name], resolve_device(device), recipe.corpus(recipe.folder)
    steps = spec.steps if steps is None else steps
    with torch.random.fork_rng(devices=[]):  # the weights are drawn on the CPU; the caller's generator is left where it was
        torch.default_generator.manual_seed(0)
        model = AutoModelForCausalLM.from_config(recipe.config(spec))
    model = model.to(place).train()
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": WEIGHT_DECAY}, {"params": rest, "weight_decay": 0.0}], betas=BETAS, fused=True
    )
    checkpoint = checkpoint or Checkpoint()
    losses = checkpoint.restore(model, optimizer)
    stream = corpus.blocks(tokenizer, recipe.context, len(losses) * recipe.batch)
    products = torch.autocast("cuda", torch.bfloat16) if recipe.autocast and place.type == "cuda" else contextlib.nullcontext()
    for step in range(len(losses), steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, spec.learning_rate, steps, recipe.warm_up)
        pieces = torch.stack(list(islice(stream, recipe.batch))).split(recipe.micro_batch)
        total = 0.0
        for ids_BT in (piece.to(place) for piece in pieces):
            with products:
                loss = model(input_ids=ids_BT, labels=ids_BT).loss / len(pieces)
            loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            raise NumericsError(f"the loss of {name} became {total} at step {step + 1}; lower its learning rate")
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)
        if (step + 1) % REPORT_EVERY == 0:
            recent = sum(losses[-REPORT_EVERY:]) / REPORT_EVERY
            say(f"{name}  step {step + 1:5d}/{steps}  loss {recent:.3f}  {checkpoint.seconds:6.0f} s")
        checkpoint.step_done(model, optimizer, losses)
    model.eval()
    return model, {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps,
        "tokens": recipe.tokens(name, steps),
        **{key: round(held_out_loss(model, blocks), 4) for key, blocks in corpus.held_out(tokenizer, recipe.context).items()},
        **corpus.facts(),
        "seconds": round(checkpoint.seconds),
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
    }


@torch.no_grad()
def held_out_loss(model: Any, blocks: torch.Tensor, batch: int = 16) -> float:
    """The mean NLL per token (nats) over blocks `[n, context]`."""
    parts = [piece.to(model.device) for piece in blocks.split(batch)]
    total: float = sum(model(input_ids=piece, labels=piece).loss.item() * len(piece) for piece in parts)
    return total / len(blocks)


def train(
    recipe: Recipe,
    names: Sequence[str],
    *,
    steps: int | None = None,
    device: str = "cpu",
    deadline: Deadline | None = None,
    say: Say = click.echo,
) -> None:
    """Train models one after the other into `recipe.folder`, the tokenizer first where there is none, and write the manifest.

    Args:
        recipe: The set that the models belong to.
        names: Names in `recipe.specs`; a model that is there already is trained anew.
        steps, device, say: See `pretrain`.
        deadline: When to stop; the same call goes on from there.

    Raises:
        OutOfTimeError: The deadline has passed.
        NumericsError: A loss is not finite.
    """
    from transformers import AutoTokenizer

    if not recipe.tokenizer.exists():
        say(f"{recipe.kind}: training the tokenizer of {recipe.vocabulary} tokens")
        with new_folder(recipe.tokenizer) as folder:
            train_tokenizer(recipe).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(recipe.tokenizer, local_files_only=True)
    for name in names:
        spec = recipe.specs[name]
        settings = [*astuple(spec), steps, *(getattr(recipe, key) for key in SHARED), file_hashes(recipe.tokenizer)]
        checkpoint = Checkpoint(
            recipe.folder / "checkpoints" / f"{recipe.model_folder(name).name}.safetensors",
            hashlib.sha256(json.dumps(settings).encode()).hexdigest(),
            deadline,
        )
        checkpoint.deadline.check()
        model, record = pretrain(recipe, name, tokenizer, steps=steps, device=device, checkpoint=checkpoint, say=say)
        _keep(recipe, name, model, record)
        checkpoint.remove()


def _keep(recipe: Recipe, name: str, model: Any, record: dict[str, Any]) -> None:
    """Write `config.json` and `model.safetensors` in the recipe's number format, and then the manifest."""
    dtype = getattr(torch, recipe.saved)
    model = model.to("cpu", dtype)
    model.config.dtype = dtype
    target = recipe.model_folder(name)
    shutil.rmtree(target, ignore_errors=True)
    with new_folder(target) as folder, by_umask(folder):
        model.save_pretrained(folder)
    manifest = recipe.manifest()
    models = manifest["models"] | {name: record}
    files = manifest["files"]
    for folder in (target, recipe.tokenizer):
        files |= {f"{folder.name}/{path}": digest for path, digest in file_hashes(folder).items()}
    ordered = {"files": dict(sorted(files.items())), "models": {key: models[key] for key in recipe.specs if key in models}}
    write_text(recipe.folder / "manifest.json", json.dumps(ordered, indent=1) + "\n")


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write; default: the set's own.")
@click.option("--steps", type=int, default=None, help="fewer steps, for a trial")
@click.option("--threads", type=int, default=None, help="torch threads")
@click.option("--device", help="As of load_model; default: cpu for nano/, auto for others.")
@click.option("--minutes", type=float, help="Stop before so many minutes are over; the same command goes on from there.")
def main(
    names: tuple[str, ...],
    out: Path | None,
    steps: int | None,
    threads: int | None,
    device: str | None,
    minutes: float | None,
) -> None:
    """Train the named models (all embedded ones by default) and write them with their manifest."""
    deadline = Deadline(minutes)
    if threads:
        torch.set_num_threads(threads)
    kind = names[0].partition("/")[0] if names else "nano"
    if kind not in RECIPES:
        raise click.BadParameter(str(unknown("set of models", kind, RECIPES)))
    recipe = RECIPES[kind] if out is None else replace(RECIPES[kind], folder=out)
    for name in names:
        if name not in recipe.specs:
            raise click.BadParameter(str(unknown(recipe.called, name, recipe.specs)))
    try:
        place = device or ("cpu" if kind == "nano" else "auto")
        train(recipe, names or list(recipe.specs), steps=steps, device=place, deadline=deadline)
    except OutOfTimeError:
        click.echo("not finished; the same command goes on from here")
        sys.exit(NOT_FINISHED)
    except OSError as error:
        raise click.ClickException(
            f"{error.strerror} ({error.filename or 'while writing'}); what was finished before is kept"
        ) from error


if __name__ == "__main__":
    main()
