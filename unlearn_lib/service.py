"""Requests over time: the paper's service loop (figure 1).

Texts to forget collect in a removal cache; when it is full, one cycle of unlearning removes them all from the current model,
they leave the retain set, and the cache is empty again. Everything lives in one folder, so that a restart loses nothing:

    state.json      settings, the cache, what was done (of forgotten texts only their SHA-256)
    model-K/        the model after cycle K
    retain-K.jsonl  what it may keep, without the texts forgotten so far
    holdout.jsonl   where one was given

A cycle appears in `state.json` only when its model and retain set are complete; until then the old ones stand.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from unlearn_lib.data.files import Row, read_rows, row_sha256, write_rows
from unlearn_lib.errors import InputError
from unlearn_lib.files import new_folder, refuse_to_overwrite, write_text
from unlearn_lib.methods import choose
from unlearn_lib.models import load_model, save_model
from unlearn_lib.progress import Say
from unlearn_lib.unlearning import Result, unlearn

SCHEMA = 1


class RemovalService:
    """A model, what it may keep, and a removal cache, in a folder. Make one with `create`, go on with `open`."""

    def __init__(self, folder: str | Path, device: str = "auto") -> None:
        self.folder = Path(folder)
        path = self.folder / "state.json"
        if not path.is_file():
            raise InputError(f"{folder} holds no state.json, so there is no removal service; RemovalService.create makes one")
        self.state: dict[str, Any] = json.loads(path.read_text())
        if self.state.get("schema_version") != SCHEMA:
            raise InputError(f"{path} has schema version {self.state.get('schema_version')}, this library reads {SCHEMA}")
        self.model, self.tokenizer = load_model(self._model_folder(self.cycle), device=device)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        model: Any,
        tokenizer: Any,
        *,
        retain: Sequence[Row] | Any,
        capacity: int = 128,
        method: str = "fisher-removal",
        holdout: Sequence[Row] | Any = None,
        base: str | None = None,
        seed: int = 0,
        **options: Any,
    ) -> Self:
        """Start a service in a new folder.

        Args:
            folder: It must not exist, or be empty.
            model, tokenizer: The model as trained on all of `retain`.
            retain: Everything it was trained on and may keep so far.
            capacity: How many texts fill the cache (paper: 128).
            method, options, base, seed: As of `unlearn`; `base` a name or folder.
            holdout: Texts never trained on, where the method needs them.

        Raises:
            InputError: A folder in use, an unknown method or option, no retain texts.
        """
        if capacity < 1:
            raise InputError(f"capacity must be at least 1, got {capacity}")
        given = {"retain": retain, "holdout": holdout, "base": base}
        choose(method, options, [name for name, value in given.items() if value is not None])
        rows = [dict(row) for row in retain]
        if not rows:
            raise InputError("the retain set is empty; a service needs the texts that the model was trained on")
        try:
            refuse_to_overwrite(Path(folder))
        except FileExistsError as error:
            raise InputError(str(error)) from error
        state = {
            "schema_version": SCHEMA,
            "capacity": capacity,
            "method": method,
            "options": options,
            "base": base,
            "seed": seed,
            "cycle": 0,
            "cache": [],
            "done": [],
        }
        with new_folder(folder) as writing:
            save_model(model, tokenizer, writing / "model-0")
            write_text(writing / "retain-0.jsonl", write_rows(rows))
            if holdout is not None:
                write_text(writing / "holdout.jsonl", write_rows(dict(row) for row in holdout))
            write_text(writing / "state.json", json.dumps(state, indent=1) + "\n")
        return cls(folder, device=str(model.device))

    @property
    def cycle(self) -> int:
        """How many cycles of unlearning were done."""
        return int(self.state["cycle"])

    @property
    def waiting(self) -> int:
        """How many texts are in the cache."""
        return len(self.state["cache"])

    def request(self, rows: Sequence[Row] | Any, report: Say = lambda line: None) -> list[Result]:
        """Ask for texts to be forgotten; the results of the cycles that this triggered, often none.

        A text asked for twice, or forgotten already, is not added again.
        """
        known = {row_sha256(row) for row in self.state["cache"]} | {
            digest for cycle in self.state["done"] for digest in cycle["sha256"]
        }
        for row in rows:
            if row_sha256(dict(row)) not in known:
                known.add(row_sha256(dict(row)))
                self.state["cache"].append(dict(row))
        self._write(self.state)
        results = []
        while self.waiting >= self.state["capacity"]:
            results.append(self._forget(self.state["capacity"], report))
        return results

    def flush(self, report: Say = lambda line: None) -> Result | None:
        """Forget what is in the cache although it is not full; None if it is empty."""
        return self._forget(self.waiting, report) if self.waiting else None

    def _forget(self, count: int, report: Say) -> Result:
        state, cycle = self.state, self.cycle + 1
        forget, rest = state["cache"][:count], state["cache"][count:]
        gone = {row_sha256(row) for row in forget}
        retain = [row for row in read_rows(self._retain_file(self.cycle)) if row_sha256(row) not in gone]
        if not retain:
            raise InputError("nothing would be left to retain after this cycle; the service ends here: discard the model")
        holdout = self.folder / "holdout.jsonl"
        report(f"cycle {cycle}: {count} texts to forget, {len(retain)} to retain, {state['method']}")
        result = unlearn(
            self.model,
            self.tokenizer,
            forget=forget,
            retain=retain,
            holdout=read_rows(holdout) if holdout.is_file() else None,
            base=state["base"],
            method=state["method"],
            seed=state["seed"] + self.cycle,
            **state["options"],
        )
        shutil.rmtree(self._model_folder(cycle), ignore_errors=True)  # left by an interruption
        with new_folder(self._model_folder(cycle)) as writing:
            save_model(result.model, self.tokenizer, writing)
        write_text(self._retain_file(cycle), write_rows(retain))
        entry = {"cycle": cycle, "sha256": sorted(gone), "cost": asdict(result.cost), "warnings": result.warnings}
        self._write({**state, "cycle": cycle, "cache": rest, "done": [*state["done"], entry]})
        self.model = result.model
        shutil.rmtree(self._model_folder(cycle - 1))
        self._retain_file(cycle - 1).unlink()
        return result

    def _write(self, state: dict[str, Any]) -> None:
        write_text(self.folder / "state.json", json.dumps(state, indent=1, ensure_ascii=False) + "\n")
        self.state = state

    def _model_folder(self, cycle: int) -> Path:
        return self.folder / f"model-{cycle}"

    def _retain_file(self, cycle: int) -> Path:
        return self.folder / f"retain-{cycle}.jsonl"
