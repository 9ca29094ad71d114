"""Several processes give one process's answer: every operator, solver and method, and `unlearn run` under torchrun."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import torch
from certified import LOOPED
from click.testing import CliRunner
from forked import Forked
from ranked import CASES
from safetensors.torch import load_file
from torch import Tensor

from unlearn_lib import save_model
from unlearn_lib.command.cli import main
from unlearn_lib.data.files import write_rows
from unlearn_lib.errors import InputError
from unlearn_lib.losses import Batch
from unlearn_lib.ranks import ALONE, Ranks, alone, data_parallel, planned_for, ranks, text_by_text
from unlearn_lib.training.sisa import train_sisa

TESTS = Path(__file__).parent
LIMIT_S = 600
BOUNDS = {"float64": 1e-12, "float32": 1e-6}
"""The largest relative difference of operators and solvers."""
EXACT = {"methods": 18, "more methods": 4}
"""So many of the methods and trainings are within these bounds, too."""


class Said(NamedTuple):
    """How a process has ended."""

    returncode: int | None
    stdout: str
    stderr: str


def compute(what: str, processes: int, folder: Path) -> dict[str, Tensor]:
    """What `ranked.py` finds with so many processes."""
    out = folder / f"{what}-{processes}.safetensors"
    done(processes, TESTS / "ranked.py", out, what)
    return load_file(out)


def done(processes: int, *words: object) -> Said:
    """What the first process has said when so many have run a Python script to its end."""
    found = ended(processes, *words)
    assert all(one.returncode == 0 for one in found), found[0].stderr[-3000:]
    return found[0]


def ended(processes: int, *words: object) -> list[Said]:
    """A Python script, alone or in several processes."""
    with ExitStack() as all_of_them:
        every = [all_of_them.enter_context(one) for one in started(processes, *words)]
        found = [one.communicate(timeout=LIMIT_S) for one in every]
        return [Said(one.returncode, *said) for one, said in zip(every, found, strict=True)]


def apart(one: Tensor, other: Tensor) -> float:
    """The distance relative to the length of the first."""
    return float((one.double() - other.double()).norm() / one.double().norm().clamp_min(1e-30))


def compared(what: str, processes: int, folder: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """What one process and several find."""
    one, several = (compute(what, number, folder) for number in (1, processes))
    assert one.keys() == several.keys()
    return {name: (tensor, several[name]) for name, tensor in one.items()}


@pytest.fixture(params=[2, pytest.param(4, marks=pytest.mark.nightly)])
def processes(request: pytest.FixtureRequest) -> int:
    found: int = request.param
    return found


@pytest.mark.parametrize("which", ["curvature", pytest.param("more curvature", marks=pytest.mark.nightly)])
def test_curvature_is_that_of_one_process(which: str, processes: int, tmp_path: Path) -> None:
    """Every operator and solver; texts unevenly divided, and processes without a text."""
    for name, pair in compared(which, processes, tmp_path).items():
        _, form, _, what = name.split("/")
        if not what.startswith("cost"):
            assert apart(*pair) <= BOUNDS[form], name
        elif "dense" not in what and "recursion" not in what:  # these two do the same in every process
            assert apart(*pair) <= 0.01, name


@pytest.mark.parametrize(
    ("form", "weights", "losses"),
    [
        # optimisers divide by the root of squares, and a calibrated length ends somewhere within its tolerance: both make more of
        # rounding, as much as another batch size does in one process
        ("float64", 1e-9, 1e-10),
        pytest.param("float32", 1e-2, 1e-4, marks=pytest.mark.nightly),
    ],
)
@pytest.mark.parametrize("which", ["methods", pytest.param("more methods", marks=pytest.mark.nightly)])
def test_methods_are_those_of_one_process(
    which: str, form: str, weights: float, losses: float, processes: int, tmp_path: Path
) -> None:
    exact = 0
    for name, pair in compared(f"{which}-{form}", processes, tmp_path).items():
        what = name.rpartition("/")[2]
        assert apart(*pair) <= {"weights": weights, "losses": losses, "cost": 0.005}[what], name
        exact += what == "weights" and apart(*pair) <= BOUNDS[form]
    assert form == "float32" or exact >= EXACT[which]


def test_every_method_is_compared() -> None:
    assert set(LOOPED) <= {method for method, _ in CASES["methods"].values()}


SHAPES = [(2, 5), (3, 9), (1, 4), (4, 2)]


def batches(shapes: list[tuple[int, int]]) -> list[Batch]:
    """Texts with numbers that tell them apart."""
    found, number = list[Batch](), 0
    for B, T in shapes:
        ids = torch.arange(number, number + B)[:, None].expand(B, T)
        found.append({"input_ids": ids, "labels": ids})
        number += B
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 30])
def test_every_text_belongs_to_one_process(size: int) -> None:
    given = batches(SHAPES)
    shares = [Ranks(rank, size).share(given) for rank in range(size)]
    own = [[int(row[0]) for batch in share.batches for row in batch["input_ids"]] for share in shares]
    assert [number for numbers in own for number in numbers] == list(range(10))
    for share, numbers in zip(shares, own, strict=True):
        assert numbers == list(range(10))[share.own]
        assert [int(row[0]) for batch in share.before for row in batch["input_ids"]] == list(range(share.own.start))
        assert share.texts == 10
        positions = sum(batch["input_ids"].numel() for batch in share.batches)
        assert abs(positions - sum(B * T for B, T in SHAPES) / size) < max(T for _, T in SHAPES)


def test_a_process_by_itself_computes_as_always() -> None:
    assert ranks() is ALONE
    batch = batches([(3, 2)])[0]
    with data_parallel() as together:
        assert together == ALONE
        assert text_by_text(lambda own: own["input_ids"][:, 0], batch).tolist() == [0, 1, 2]
    with alone():
        assert ALONE.gather(torch.ones(3), ALONE.share([batch])).tolist() == [1, 1, 1]


def test_small_tensors_are_added_up_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any shape, in an order that another kind or a large tensor interrupts; each is added up once."""
    sent = list[int]()

    def doubled(tensor: Tensor) -> None:
        sent.append(tensor.numel())
        tensor.mul_(2)

    monkeypatch.setattr("torch.distributed.all_reduce", doubled)
    vector = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": torch.arange(6.0).reshape(2, 3).T,
        "large": torch.ones(2**15),
        "c": torch.tensor(3.0),
        "d": torch.ones(2, dtype=torch.float64),
        "e": torch.ones(4, dtype=torch.float64),
    }
    expected = {name: 2 * tensor for name, tensor in vector.items()}
    found = Ranks(0, 2).add(vector)
    assert sent == [12, 2**15, 1, 6]
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert Ranks(0, 1).add(vector) is vector
    assert len(sent) == 4


def test_of_other_commands_one_process_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {}
    for rank in ("0", "1"):
        for name, value in {"RANK": rank, "WORLD_SIZE": "2"}.items():
            monkeypatch.setenv(name, value)
        result = CliRunner().invoke(main, ["methods"], catch_exceptions=False)
        assert result.exit_code == 0
        said[rank] = result.output
    assert "constrained-newton" in said["0"]
    assert said["1"] == ""


def test_a_gpu_is_not_given_to_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="leave out the number"), data_parallel("cuda:1"):
        pass
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(InputError, match="process 2 of its machine, which has 1 GPUs"), data_parallel("cuda"):
        pass


def test_an_ensemble_is_trained_by_one_process(tiny: Any, tokenizer: Any, texts: list[dict[str, str]], tmp_path: Path) -> None:
    with planned_for(2), pytest.raises(InputError, match="call train_sisa outside of data_parallel"):
        train_sisa(tiny("opt"), tokenizer, texts[:4], shards=2, slices=1, folder=tmp_path / "ensemble")
    assert not (tmp_path / "ensemble").exists()


@pytest.fixture
def words(tmp_path: Path, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> list[str]:
    """`unlearn run` with twelve steps, on files of its own."""
    save_model(tiny("opt", torch.float32), tokenizer, tmp_path / "model")
    files = written(tmp_path, texts)
    options = {"epochs": 4, "forget_batch_size": 2, "learning_rate": 1e-3}
    settings = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
    return ["run", "--model", str(tmp_path / "model"), *files, "--device", "cpu", "--method", "npo", *settings]


def written(folder: Path, texts: list[dict[str, str]]) -> list[str]:
    """Short texts as files, five to forget and seven to retain, in the words of `unlearn run`."""
    short = [{"text": row["text"][:60]} for row in texts]
    for name, rows in (("forget", short[:5]), ("retain", short[5:12])):
        (folder / f"{name}.jsonl").write_text(write_rows(rows), encoding="utf-8")
    return [word for name in ("forget", "retain") for word in (f"--{name}", str(folder / f"{name}.jsonl"))]


RUN = """
import sys
from unlearn_lib.command.cli import main
{first}
main(sys.argv[1:])
"""


def script(folder: Path, first: str = "") -> Path:
    """The command `unlearn`, with something to do before."""
    path = folder / "unlearn.py"
    path.write_text(RUN.format(first=first), encoding="utf-8")
    return path


def watched(path: Path, words: list[str], out: Path) -> subprocess.CompletedProcess[str]:
    """The script in two processes that torchrun starts and watches over."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    several = {"PYTHONPATH": os.pathsep.join(path for path in paths if path), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*torchrun, str(path), *words, "--out", str(out)],
        env={**os.environ, **several},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )


def weights(out: Path) -> Tensor:
    return torch.cat([tensor.flatten() for _, tensor in sorted(load_file(out / "model" / "model.safetensors").items())])


KILLED_AFTER_A_STEP = """
import os, signal
from unlearn_lib.methods import resume
resume.SECONDS_BETWEEN = 0.0
steps = resume.Keeper.steps
def killed(self, *args):
    for k in steps(self, *args):
        if k == 3 and os.environ.get("RANK", "1") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        yield k
resume.Keeper.steps = killed
"""


def test_the_command_in_two_processes_writes_once(words: list[str], tmp_path: Path) -> None:
    """The same model and report as one process, each line once; of bad input every process says what is wrong."""
    path = script(tmp_path)
    for run in (done(1, path, *words, "--out", tmp_path / "out1"), watched(path, words, tmp_path / "out2")):
        assert run.returncode == 0, run.stderr
        assert run.stdout.count("verdict:") == run.stdout.count("written:") == 1
    assert apart(weights(tmp_path / "out1"), weights(tmp_path / "out2")) < 1e-3
    one, two = (json.loads((tmp_path / f"out{number}" / "report.json").read_text(encoding="utf-8")) for number in (1, 2))
    assert two["cost"]["gradient_evaluations"] == one["cost"]["gradient_evaluations"]
    for name in ("forget", "retain"):
        assert two["losses"][name]["after"] == pytest.approx(one["losses"][name]["after"], rel=1e-4)
    for rank, again in enumerate(ended(2, path, *words, "--out", tmp_path / "out2")):
        assert again.returncode != 0
        assert f"(process {rank} of 2)" in again.stderr


def test_a_process_that_dies_ends_all_and_the_run_goes_on_with_another_number(words: list[str], tmp_path: Path) -> None:
    """Nothing is half-written, no process is left, and one process alone ends what two began."""
    start = time.monotonic()
    dead = watched(script(tmp_path, KILLED_AFTER_A_STEP), words, tmp_path / "out")
    assert dead.returncode != 0
    assert time.monotonic() - start < 60
    assert not (tmp_path / "out").exists()
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]
    assert list((tmp_path / ".out.steps").glob("*.safetensors"))
    went_on = done(1, script(tmp_path), *words, "--out", tmp_path / "out")
    assert "this one goes on from its last step" in went_on.stdout
    done(1, script(tmp_path), *words, "--out", tmp_path / "whole")
    assert apart(weights(tmp_path / "whole"), weights(tmp_path / "out")) < 1e-3
    assert not (tmp_path / ".out.steps").exists()


def test_a_process_whose_partner_is_gone_says_so(words: list[str], tmp_path: Path) -> None:
    """Started one by one, as on two machines, without a program that watches over them."""
    the_first_says_that_the_second_is_gone(tmp_path, words)


def the_first_says_that_the_second_is_gone(folder: Path, words: list[str]) -> None:
    """Of `unlearn` with these words, in two processes of which the second is killed after a step."""
    both = started(2, script(folder, KILLED_AFTER_A_STEP), *words, "--out", folder / "out")
    with both[0] as left, both[1] as killed:
        killed.communicate(timeout=LIMIT_S)
        assert killed.returncode == -signal.SIGKILL
        _, said = left.communicate(timeout=60)
        assert left.returncode == 3
    assert "unlearn (process 0 of 2): another process of this run has ended" in said
    assert not (folder / "out").exists()


def started(processes: int, *words: object) -> list[Forked]:
    """A Python script in so many processes, started one by one, as on several machines, without a program that watches over them."""
    if processes == 1:
        return [Forked(words, {})]
    together = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return [Forked(words, together | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(processes)]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
