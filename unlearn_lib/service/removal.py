"""Requests over time: the paper's service loop (figure 1).

Texts to forget collect in a removal cache; when it is full, one cycle of unlearning removes them all from the current model,
they leave the retain set, and the cache is empty again. Everything lives in one folder, so that a restart loses nothing:

    state.json      settings, the cache, what was done (of forgotten texts only their SHA-256)
    model-K/        the model after cycle K
    retain-K.jsonl  what it may keep, without the texts forgotten so far
    holdout.jsonl   where one was given, without the texts forgotten so far
    .*.lock         who is at work; empty

Any number of processes may have a service open. `state.json` is read anew for every answer and changes under a lock; a second lock
is held by whoever carries out a cycle, so that others can go on asking meanwhile. A cycle counts from the moment its number stands
in `state.json`, which is when its model and retain set are complete. What an interruption leaves behind, the old model and the old
retain set above all, is removed when the service is opened next.

A text is what the model learns from it: further columns of a row, and how it is divided into prompt and completion, do not make it
another text. The folder can be read by its owner alone.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from unlearn_lib.data.batches import context_length, encode
from unlearn_lib.data.files import read_rows
from unlearn_lib.data.given import rows_of
from unlearn_lib.data.rows import Row, checked_row, halves, row_sha256, whole_text, write_rows
from unlearn_lib.errors import InputError
from unlearn_lib.files import PREFIX, new_folder, refuse_to_overwrite, write_text
from unlearn_lib.methods import choose
from unlearn_lib.models.load import load_model, save_model
from unlearn_lib.progress import Say
from unlearn_lib.service.state import Cycle, State
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import Result, unlearn


def text_sha256(row: Row) -> str:
    """The SHA-256 by which a service knows a text: of its content, prompt and completion joined."""
    return row_sha256(row if halves(row) is None else {"text": whole_text(row)})


class RemovalService:
    """A model, what it may keep, and a removal cache, in a folder. Make one with `create`; this opens one that is there."""

    def __init__(self, folder: str | Path, device: str = "auto") -> None:
        self.folder, self._device = Path(folder), device
        self._state_lock, self._cycle_lock = (
            FileLock(self.folder / f".{name}.lock", mode=0o600) for name in ("state", "cycle")
        )
        self._tidy_up()
        self._loaded = self._load()

    @classmethod
    def create(
        cls,
        folder: str | Path,
        model: Any,
        tokenizer: Any,
        *,
        retain: Sequence[Row] | Any,
        capacity: int = 128,
        method: str = "constrained-newton",
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
            InputError: A folder in use, an unknown method or option, no retain texts, a row that cannot be used.
        """
        if capacity < 1:
            raise InputError(f"capacity must be at least 1, got {capacity}")
        choose(method, options, Request(retain=retain, holdout=holdout, base=base).given)
        rows = _usable("retain", retain, model, tokenizer)
        if not rows:
            raise InputError("the retain set is empty; a service needs the texts that the model was trained on")
        unseen = None if holdout is None else _usable("holdout", holdout, model, tokenizer)
        try:
            refuse_to_overwrite(Path(folder))
        except FileExistsError as error:
            raise InputError(str(error)) from error
        state = State.new(capacity=capacity, method=method, options=options, base=base, seed=seed)
        with new_folder(folder, private=True) as writing:
            save_model(model, tokenizer, writing / "model-0")
            write_text(writing / "retain-0.jsonl", write_rows(rows), private=True)
            if unseen is not None:
                write_text(writing / "holdout.jsonl", write_rows(unseen), private=True)
            write_text(writing / "state.json", state.as_json(), private=True)
        return cls(folder, device=str(model.device))

    @property
    def state(self) -> State:
        """Settings, cache and what was done, as they are in the folder now.

        Raises:
            InputError: The folder holds no service, or one of another version.
        """
        path = self.folder / "state.json"
        if not path.is_file():
            raise InputError(
                f"{self.folder} holds no state.json, so there is no removal service; RemovalService.create makes one"
            )
        return State.read(path)

    @property
    def cycle(self) -> int:
        """How many cycles of unlearning were done."""
        return self.state.cycle

    @property
    def waiting(self) -> int:
        """How many texts are in the cache."""
        return len(self.state.cache)

    @property
    def model(self) -> Any:
        """The model after the last cycle, whichever process carried it out."""
        return self._current()[0]

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self._loaded[2]

    def request(self, rows: Sequence[Row] | Any, report: Say = lambda line: None) -> list[Result]:
        """Ask for texts to be forgotten; the results of the cycles that this triggered, often none.

        A text asked for twice, or forgotten already, is not added again. From here on it is in no retain set of a cycle, also of
        one that forgets other texts first.

        Raises:
            InputError: A row that cannot be used; then none of the rows is added.
            NumericsError: As of `unlearn`; the texts stay in the cache.
        """
        asked = _usable("request", rows, self._loaded[1], self.tokenizer)
        with self._changing() as state:
            known = {text_sha256(row) for row in state.cache} | state.forgotten
            for row in asked:
                if text_sha256(row) not in known:
                    known.add(text_sha256(row))
                    state.cache.append(row)
        results = []
        while self.waiting >= self.state.capacity:
            with self._at_work(report):
                if self.waiting >= self.state.capacity:  # another process may have been faster
                    results.append(self._forget(self.state.capacity, report))
        return results

    def flush(self, report: Say = lambda line: None) -> Result | None:
        """Forget what is in the cache although it is not full; None if it is empty."""
        if not self.waiting:
            return None
        with self._at_work(report):
            return self._forget(self.waiting, report) if self.waiting else None

    def _forget(self, count: int, report: Say) -> Result:
        """One cycle, under the lock of cycles."""
        self._tidy_up_locked()
        model, tokenizer = self._current()
        state = self.state
        cycle, forget = state.cycle + 1, state.cache[:count]
        gone, asked = ({text_sha256(row) for row in rows} for rows in (forget, state.cache))
        kept = [row for row in read_rows(self._retain_file(cycle - 1)) if text_sha256(row) not in gone]
        # what waits for a later cycle is not trained on in this one
        retain = [row for row in kept if text_sha256(row) not in asked]
        if not retain:
            raise InputError("nothing would be left to retain after this cycle; the service ends here: discard the model")
        holdout = self.folder / "holdout.jsonl"
        report(f"cycle {cycle}: {count} texts to forget, {len(retain)} to retain, {state.method}")
        result = unlearn(
            model,
            tokenizer,
            forget=forget,
            retain=retain,
            holdout=[row for row in read_rows(holdout) if text_sha256(row) not in asked] if holdout.is_file() else None,
            base=state.base,
            method=state.method,
            seed=state.seed + cycle - 1,
            **state.options,
        )
        # the model that it comes from is deleted below, so that nothing that is written may rest on its folder
        result.model.name_or_path = ""
        with new_folder(self._model_folder(cycle), private=True) as writing:
            save_model(result.model, tokenizer, writing)
        write_text(self._retain_file(cycle), write_rows(kept), private=True)
        entry = Cycle(cycle=cycle, sha256=sorted(gone), cost=asdict(result.cost), warnings=result.warnings)
        with self._changing() as now:  # others may have asked for more meanwhile
            now.cycle = cycle
            now.cache = [row for row in now.cache if text_sha256(row) not in gone]
            now.done.append(entry)
        self._loaded = (cycle, result.model, tokenizer)
        self._tidy_up_locked()
        return result

    def _current(self) -> tuple[Any, Any]:
        if self._loaded[0] != self.cycle:
            self._loaded = self._load()
        return self._loaded[1:]

    def _load(self) -> tuple[int, Any, Any]:
        while True:
            cycle = self.cycle
            try:
                return (cycle, *load_model(self._model_folder(cycle), device=self._device))
            except InputError:
                if self.cycle == cycle:
                    raise  # otherwise another process finished a cycle, and removed this model, while it was read

    @contextmanager
    def _changing(self) -> Iterator[State]:
        """The state as it is now, to be changed; written at the end, if it changed, before any other process can change it."""
        with self._state_lock:
            state = self.state
            before = state.as_json()
            yield state
            if (content := state.as_json()) != before:
                write_text(self.folder / "state.json", content, private=True)

    @contextmanager
    def _at_work(self, report: Say) -> Iterator[None]:
        """The lock of cycles, which the system takes back from a process that dies."""
        try:
            self._cycle_lock.acquire(timeout=0)
        except Timeout:
            report("another process is carrying out a cycle of this service; this one goes on when it is done")
            self._cycle_lock.acquire()
        try:
            yield
        finally:
            self._cycle_lock.release()

    def _tidy_up(self) -> None:
        """Remove what an interruption left, unless some process is at work, which does it itself."""
        if not (self.folder / "state.json").is_file():
            return  # no service: nothing of ours to remove
        try:
            with self._cycle_lock.acquire(timeout=0):
                self._tidy_up_locked()
        except Timeout:
            pass
        except PermissionError:
            pass  # a service of somebody else's can be looked at, not changed

    def _tidy_up_locked(self) -> None:
        """Remove everything that belongs to another cycle than the current one, and served texts from the held-out ones."""
        with self._changing() as state:
            for number, row in enumerate(list(state.cache), 1):
                try:
                    checked_row(row, f"{self.folder / 'state.json'}, cache, row {number}")
                except InputError as error:  # version 0.1.0 took such rows, and then no cycle ended
                    warnings.warn(f"a request was dropped, because nothing can be learnt from it: {error}", stacklevel=3)
                    state.cache.remove(row)
            current = {self._model_folder(state.cycle), self._retain_file(state.cycle)}
            for pattern in ("model-*", "retain-*.jsonl", f"{PREFIX}*"):
                for path in set(self.folder.glob(pattern)) - current:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            holdout = self.folder / "holdout.jsonl"
            if holdout.is_file():
                rows = read_rows(holdout)
                left = [row for row in rows if text_sha256(row) not in state.forgotten]
                if len(left) < len(rows):
                    write_text(holdout, write_rows(left), private=True)

    def _model_folder(self, cycle: int) -> Path:
        return self.folder / f"model-{cycle}"

    def _retain_file(self, cycle: int) -> Path:
        return self.folder / f"retain-{cycle}.jsonl"


def _usable(name: str, data: Any, model: Any, tokenizer: Any) -> list[Row]:
    """The rows with the columns that are used, each of which can be encoded: what is refused here would stop every later cycle.

    Raises:
        InputError: A row that cannot be used, with its number from 0.
    """
    rows = rows_of(data, name)
    try:
        encode(rows, tokenizer, context_length(model, tokenizer), long_texts="split")
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    return rows
