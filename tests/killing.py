"""Kills Python code just before a chosen change of files: `with Killer() as killer: killer.run(code, folder, kill_at=3)`.

The code runs in a fork of a process that has imported the library and done nothing yet: a fork of the tests' own process could find
a lock held by one of its threads, and wait for ever.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Self

CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
"""Audit events of Python that change files (of `open` only those for writing count)."""
LIMIT_S = 120


@dataclass(frozen=True)
class Killed:
    """How a run ended: its changes below the folder, one line each, and the signal that ended it (0: it came to its end)."""

    changes: list[str]
    signal: int


class Killer:
    """The process that is forked."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        assert self._process.returncode == 0

    def run(
        self, code: str, folder: Any, *, kill_at: int | None = None, kinds: tuple[str, ...] = CHANGES, **names: Any
    ) -> Killed:
        """Run `code` with these names; SIGKILL just before change number `kill_at` (from 0) of these kinds below `folder`."""
        order = {"code": code, "folder": str(folder), "kill_at": kill_at, "kinds": kinds, "names": names}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the process that is forked has died"
        return Killed(**json.loads(answer))


def _child(order: dict[str, Any], pipe: int) -> None:
    count = 0

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in order["kinds"] or not isinstance(args[0], (str, os.PathLike)) or order["folder"] not in str(args[0]):
            return
        if event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if count == order["kill_at"]:
            os.kill(os.getpid(), signal.SIGKILL)
        count += 1
        os.write(pipe, f"{event} {args[0]}\n".encode())

    signal.alarm(LIMIT_S)
    sys.addaudithook(watch)
    exec(order["code"], {**order["names"], "folder": order["folder"]})


def _serve() -> None:
    # what every fork would otherwise import by itself
    import matplotlib.pyplot  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPTNeoForCausalLM, OPTForCausalLM  # noqa: F401

    from unlearn_lib import methods, service, unlearn  # noqa: F401
    from unlearn_lib.command import cards, cli, forecast, run  # noqa: F401
    from unlearn_lib.command.report import page  # noqa: F401

    for line in sys.stdin:
        reading, writing = os.pipe()
        if (child := os.fork()) == 0:
            os.close(reading)
            os.dup2(2, 1)  # what it prints is no answer
            try:
                _child(json.loads(line), writing)
                os._exit(0)
            finally:
                os._exit(1)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            changes = pipe.read().splitlines()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status > 0:
            raise SystemExit(f"the code failed: {line}")
        print(json.dumps({"changes": changes, "signal": -status}), flush=True)


if __name__ == "__main__":
    _serve()
