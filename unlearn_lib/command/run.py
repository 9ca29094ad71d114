"""`unlearn run`: a user's model folder and files in, a folder with the new model and its report out. All or nothing."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from unlearn_lib.data.files import Row, read_rows, sha256
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.files import in_utf8, new_folder, refuse_to_overwrite, shown, write_text
from unlearn_lib.progress import Say
from unlearn_lib.unlearning.request import Request

PARTS = ("forget", "retain", "holdout")
DEQUANTISED = "the weights of the GGUF file were dequantised to float32, because quantised ones cannot be differentiated"


@dataclass(frozen=True)
class Job:
    """What `unlearn run` was asked to do; paths as the user gave them. The `request` has no texts before the files are read."""

    model: str
    files: Mapping[str, Path]
    out: Path | None
    request: Request
    device: str = "auto"
    show_texts: bool = False
    dtype: str = "stored"
    cards: str | None = None
    shard_weights: bool = False

    def with_texts(self, rows: Mapping[str, list[Row]]) -> Request:
        """The request with the texts that `check` has read."""
        texts: dict[str, Any] = {name: rows.get(name) for name in PARTS}
        return replace(self.request, **texts)


def parse_options(pairs: Mapping[str, str]) -> dict[str, Any]:
    """Options given as text: numbers, true, false, none, or names; checked later by the method itself."""
    words: dict[str, Any] = {"true": True, "false": False, "none": None}
    values: dict[str, Any] = {}
    for key, text in pairs.items():
        if text.lower() in words:
            values[key] = words[text.lower()]
            continue
        for kind in (int, float):
            try:
                values[key] = kind(text)
                break
            except ValueError:
                continue
        else:
            values[key] = text
    return values


def check(job: Job) -> dict[str, list[Row]]:
    """Read the files and check everything that can be checked before a model is loaded.

    Raises:
        InputError: A file, method, option or folder that cannot be used.
    """
    from unlearn_lib.methods import choose
    from unlearn_lib.models.load import find
    from unlearn_lib.models.stored_formats import check_written

    check_written(job.dtype)
    choose(job.request.method, job.request.options, [*job.files, *(["base"] if job.request.base else [])])
    if job.out is not None:
        if not in_utf8(job.out):
            raise InputError(
                f"--out {shown(job.out)} is not UTF-8 here, and the libraries that write a model take no other names; choose another, "
                "or set PYTHONUTF8=1 if only the locale is not"
            )
        try:
            refuse_to_overwrite(job.out)
        except FileExistsError as error:
            raise InputError(str(error)) from error
    for name in (job.model, job.request.base):
        if name is not None:
            find(name)
    return {name: read_rows(path) for name, path in job.files.items()}


def plan(job: Job, rows: Mapping[str, list[Row]]) -> list[str]:
    """What `run` would do and need, as lines; nothing is computed or written.

    Where the model's weights are not on this machine, its shape is enough: see `unlearn_lib.models.shapes`.
    """
    from unlearn_lib.command.cards import Cards, fitting
    from unlearn_lib.data.examples import by_text
    from unlearn_lib.methods.plan import model_bytes
    from unlearn_lib.models.load import find
    from unlearn_lib.models.shapes import load_for_plan
    from unlearn_lib.progress import quiet_libraries
    from unlearn_lib.unlearning.unlearn import prepare

    quiet_libraries()
    cards = None if job.cards is None else Cards.parse(job.cards)
    found = load_for_plan(job.model, job.device)
    model, notes = found.model, found.notes
    if find(job.model).quantised:
        notes = [*notes, DEQUANTISED]
    prepared = prepare(model, found.tokenizer, job.with_texts(rows))
    if found.tokenizer is None:
        notes = [*notes, f"no tokenizer is at hand, so every text counts as {prepared.length:,} tokens (--max-length)"]
    inputs = prepared.inputs
    held_out = [*inputs.holdout, *prepared.holdout_for_report]
    tokens = sum(len(example.input_ids) for example in prepared.forget_texts)
    needs, own = prepared.method.plan(model, inputs), model_bytes(model)
    where = f"on {model.device}" if found.weights else "by its shape alone, without weights"
    lines = [
        f"model: {job.model}, {_parameters(model)['trainable']:,} trainable parameters, {where}",
        f"texts: {len(by_text(inputs.forget))} to forget ({tokens:,} tokens), {len(by_text(inputs.retain))} to retain, "
        f"{len(by_text(held_out))} held out",
        f"method: {job.request.method}, " + ", ".join(f"{key}={value}" for key, value in prepared.method.model_dump().items()),
        f"needs: {needs}",
        f"in all: about {(own + needs.peak_memory_bytes) / 2**20:,.0f} MiB of memory with the model's own {own / 2**20:,.0f} MiB "
        f"({str(model.dtype).removeprefix('torch.')})",
    ]
    if cards is not None:
        lines.append(fitting(model, prepared, cards, shard_weights=job.shard_weights))
    return lines + [f"note: {note}" for note in [*notes, *prepared.warnings]]


def run(job: Job, rows: Mapping[str, list[Row]], say: Say) -> Path:
    """Do it; returns the folder written.

    Of several processes that `torchrun` has started each computes a share, and the first writes. The folder is tried before
    anything is loaded. What a method has done is kept beside it, in `.NAME.steps`, until it is there, so that the same command
    goes on where it was killed. The model is worked on in float32, and written, and measured, in the number format that it was
    stored in, or in `job.dtype`. With `job.shard_weights` each of several processes has a part of it (`unlearn_lib.shards`).

    Raises:
        InputError, NumericsError: As `unlearn`. Nothing is written then.
        OSError: The folder cannot be written.
        KeptError: It could not be put in its place; the finished one is kept, and the message says where.
    """
    from unlearn_lib.ranks import data_parallel

    assert job.out is not None
    steps = job.out.parent / f".{job.out.name}.steps"
    try:
        with data_parallel(job.device, shard_weights=job.shard_weights) as together:
            if not together.first:
                _fill(None, job, rows, lambda line: None, steps)
                return job.out
            with new_folder(job.out) as folder:
                _fill(folder, job, rows, say, steps)
    except FileExistsError as error:
        raise InputError(str(error)) from error
    except NumericsError:  # as it will every time
        shutil.rmtree(steps, ignore_errors=True)
        raise
    shutil.rmtree(steps, ignore_errors=True)
    return job.out


def _fill(folder: Path | None, job: Job, rows: Mapping[str, list[Row]], say: Say, keep: Path) -> None:
    """Compute all, and write it where there is a folder."""
    from unlearn_lib.audit.texts import of_sequences
    from unlearn_lib.command.forecast import forecast
    from unlearn_lib.command.report.measure import Look, measured
    from unlearn_lib.command.report.page import render
    from unlearn_lib.command.report.schema import Report
    from unlearn_lib.command.report.texts import forget_texts
    from unlearn_lib.command.report.verdict import verdict
    from unlearn_lib.data.examples import by_text
    from unlearn_lib.methods.divided import check_divided
    from unlearn_lib.models.forms import form_of
    from unlearn_lib.models.load import find, load_model, save_model, stored_formats
    from unlearn_lib.models.master_weights import formats_in, give_back
    from unlearn_lib.models.stored_formats import formats_to_write, round_weights, summary
    from unlearn_lib.progress import ProgressBar, quiet_libraries
    from unlearn_lib.ranks import ranks
    from unlearn_lib.shards import make_whole, shard
    from unlearn_lib.training.loop import derivatives
    from unlearn_lib.unlearning.unlearn import carry_out, prepare

    quiet_libraries()
    sharded = ranks().sharded
    model, tokenizer = load_model(job.model, device="cpu" if sharded else job.device)
    stored = stored_formats(job.model)
    formats = formats_to_write(model, stored, job.dtype)
    if folder is not None:
        check_space(folder, model, formats)
    prepared = prepare(model, tokenizer, job.with_texts(rows))
    # all held-out texts, in both pictures
    sets = {
        "forget": prepared.inputs.forget,
        "retain": prepared.inputs.retain,
        "holdout": [*prepared.inputs.holdout, *prepared.holdout_for_report],
    }
    counts = {name: len(by_text(examples)) for name, examples in sets.items()}
    say(f"{job.request.method}: {counts['forget']} texts to forget, {counts['retain']} to retain, {counts['holdout']} held out")
    rounded = any(p.dtype != formats.get(name, p.dtype) for name, p in model.named_parameters())
    looks = (3 if rounded else 2) * sum(len(examples) for examples in sets.values())  # before, after, and after rounding
    plan = None
    if sharded:
        check_divided(prepared.method)
        if form := form_of(model):
            raise InputError(f"a model of the form {form!r} cannot be divided among processes; leave out --shard-weights")
        with derivatives(model):
            plan = prepared.method.plan(model, prepared.inputs)  # which rehearses passes of a model that is whole
        model = shard(model, job.device)
    with derivatives(model):
        forecast(model, prepared, looks, say, plan)
    grouping, texts = prepared.inputs.grouping, of_sequences(sets, tokenizer, rows["forget"])
    look = Look(texts)
    losses_before, seen_before = look(model, sets, grouping), look.observed
    shape = _parameters(model)  # a method may freeze the model that it was given
    if any(keep.glob("*.safetensors")):
        say(
            "an earlier run into this folder was interrupted; where nothing but its time is different, this one goes on from its last step"
        )
    with ProgressBar(job.request.method, silent=folder is None) as progress:
        result = carry_out(
            prepared, model, tokenizer, progress, sets=sets, losses_before=losses_before, in_place=True, measure=look, keep=keep
        )
    # with those of weights that the method has added
    formats = formats_to_write(result.model, formats_in(result.model, stored), job.dtype)
    if rounded:
        round_weights(result.model, formats)
        look(result.model, sets, grouping)
    before, after = measured(seen_before), measured(look.observed)
    found, missing = verdict(seen_before, look.observed, texts)
    dtypes = {
        "stored": summary(formats_to_write(model, stored)) if stored else None,
        "worked_in": summary(dict(zip(formats, (p.dtype for p in model.parameters()), strict=False))),
        "written": summary(formats),
    }
    content = {
        **_describe(job, rows, model, shape, sets, dtypes),
        "config": result.config,
        "verdict": found,
        "losses": {name: {"before": before.mean_loss(name), "after": after.mean_loss(name)} for name in PARTS},
        "metrics": {"before": dict(before.metrics), "after": dict(after.metrics)},
        "forget_texts": forget_texts(rows["forget"], prepared.forget_texts, before, after, show=job.show_texts),
        "solution": _solution(result.solution),
        "cost": vars(result.cost),
        "history": result.history,
        "details": result.details,
        "warnings": [*result.warnings, *missing],
    }
    if sharded:
        make_whole(result.model, formats)
    if folder is None:
        return
    report = Report.model_validate(content)
    give_back(result.model, formats)
    save_model(result.model, result.tokenizer, folder / "model")
    write_text(folder / "report.json", report.as_json())
    write_text(folder / "report.html", render(report.as_dict(), before.losses, after.losses))
    for warning in report.warnings:
        say(f"warning: {warning}")
    if job.show_texts:
        say(f"note: both reports show {len(report.forget_texts)} forget texts in full")
    if find(job.model).quantised:
        say(f"note: {DEQUANTISED}; the new model is written in {summary(formats)} as safetensors")
    if summary(formats) != dtypes["worked_in"]:
        how = "as it was stored" if job.dtype == "stored" else "as asked"
        say(f"note: the model is written in {summary(formats)}, {how}, and measured so; it was worked on in float32")
    for name in (name for name in PARTS if name in before.losses):
        say(f"{name} loss: {before.mean_loss(name):.3f} -> {after.mean_loss(name):.3f}")
    say(f"verdict: {found.outcome}. {found.sentence}")


def check_space(folder: Path, model: Any, formats: Mapping[str, Any]) -> None:
    """Raise where the disk has no room for the weights, before they are computed.

    Raises:
        OSError: ENOSPC, as writing them would.
    """
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    needed, free = sum(sizes[name] * dtype.itemsize for name, dtype in formats.items()), shutil.disk_usage(folder).free
    if free < needed:
        where = f"{folder.parent}, which has {free / 2**20:,.1f} MiB free, and the model takes {needed / 2**20:,.1f} MiB"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where)


def _describe(
    job: Job,
    rows: Mapping[str, list[Row]],
    model: Any,
    shape: Mapping[str, int],
    sets: Mapping[str, Any],
    dtypes: Mapping[str, str | None],
) -> dict[str, Any]:
    from unlearn_lib import __version__
    from unlearn_lib.command.report.schema import VERSION
    from unlearn_lib.data.examples import by_text
    from unlearn_lib.environment import provenance

    return {
        "schema_version": VERSION,
        "method": job.request.method,
        "seed": job.request.seed,
        "model": {
            "name": job.model,
            "base": job.request.base,
            "type": model.config.model_type,
            **shape,
            "dtype": dict(dtypes),
        },
        "data": {
            name: {
                "path": shown(job.files[name]),
                "rows": len(rows[name]),
                "used": len(by_text(sets[name])),
                "sequences": len(sets[name]),
                "sha256": sha256(job.files[name]),
            }
            if name in rows
            else None
            for name in PARTS
        },
        "environment": {"unlearn_lib": __version__, **provenance()},
    }


def _parameters(model: Any) -> dict[str, int]:
    every = list(model.parameters())
    return {"parameters": sum(p.numel() for p in every), "trainable": sum(p.numel() for p in every if p.requires_grad)}


def _solution(solution: Any) -> dict[str, Any] | None:
    if solution is None:
        return None
    return {key: str(value) if key == "reason" else value for key, value in vars(solution).items() if key != "value"}
