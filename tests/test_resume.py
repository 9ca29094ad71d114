"""A run that was killed goes on from its last step, to the weights and the account of an undisturbed one."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from certified import LOOPED

from unlearn_lib import checkpoints, unlearn
from unlearn_lib.errors import InputError
from unlearn_lib.methods import resume
from unlearn_lib.methods.base import Outcome, Passes
from unlearn_lib.methods.resume import Keeper, Named, Optimised, Weights

STARTS_ANEW = ("certified-newton",)
"""Methods that keep nothing."""
DESCENT: dict[str, Any] = {"epochs": 3, "forget_batch_size": 2, "learning_rate": 1e-3}
# three steps or more of each method
OPTIONS: dict[str, dict[str, Any]] = {
    "retrain": {"epochs": 3, "learning_rate": 1e-3, "train_batch_size": 4},
    "finetune": {"epochs": 3, "learning_rate": 1e-3, "train_batch_size": 4},
    "task-vector": {"epochs": 3, "learning_rate": 1e-3, "train_batch_size": 2, "scale": 1.0},
    "gradient-ascent": {"epochs": 4, "step": 0.01, "optimizer": "adam"},
    "constrained-newton": {
        "steps": 3,
        "approach": 2,
        "anchor_texts": 4,
        "target_loss": 7.5,
        "retain_limit": None,
        "written": True,
    },
    "fisher-removal": {"target_loss": 7.5, "retain_limit": None, "steps": 3},
    "fisher-forgetting": {"step": 0.1, "steps": 3, "solver": "diagonal", "relative_damping": 0.1},
    "newton": {"step": 0.5, "steps": 3, "max_steps": 2},
    "kfac-newton": {"step": 1e-4, "steps": 3},
    "woodbury-newton": {"step": 0.1, "steps": 3},
    "gradient-difference": {**DESCENT, "retain_batch_size": 4},
    "npo": {**DESCENT, "stop": "calibrate", "target_loss": 7.5, "retain_limit": None},
    "simnpo": {**DESCENT, "optimizer": "sgd"},
    "wga": DESCENT,
    "undial": DESCENT,
    "dpo": {**DESCENT, "retain_loss": "kl"},
    "rmu": {**DESCENT, "retain_weight": 1.0},
    "memflex": {**DESCENT, "scale": "quantile", "mu": 1.0, "sigma": 0.5},
    "sophia": {**DESCENT, "update_every": 2},
    "eul": DESCENT,
    "delta-unlearning": {**DESCENT, "small": "nano/opt-s"},
}


@pytest.fixture(autouse=True)
def after_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)


class KilledError(Exception):
    """Raised in place of a signal."""


def run(model: Any, tokenizer: Any, rows: Any, method: str, keep: Path | None, kill_at: int | None = None, **more: Any) -> Any:
    def progress(step: int, steps: int, loss: float | None) -> None:
        done.append(step)
        if step == kill_at:
            raise KilledError

    done: list[int] = []
    given = copy.deepcopy(model)
    base = copy.deepcopy(model)
    result = unlearn(
        given,
        tokenizer,
        **rows,
        base=base,
        method=method,
        seed=3,
        batch_size=4,
        progress=progress,
        keep=keep,
        **OPTIONS[method] | more,
    )
    return result, done


@pytest.fixture(scope="module")
def rows(texts: list[dict[str, str]]) -> dict[str, Any]:
    short = [{"text": row["text"][:60]} for row in texts]
    return {"forget": short[:4], "retain": short[4:12], "holdout": short[12:16]}


def test_every_method_is_tried() -> None:
    assert {*OPTIONS, *STARTS_ANEW} == set(LOOPED)


@pytest.mark.parametrize("method", OPTIONS)
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(
    method: str, tiny: Any, tokenizer: Any, rows: Any, tmp_path: Path
) -> None:
    """Killed twice, the second time in the run that went on; and nothing that was done is done again."""
    model = tiny("opt").float()
    # captured factors are confirmed, and that is counted, once in a process
    run(model, tokenizer, rows, method, None, **({"steps": 1} if "steps" in OPTIONS[method] else {}))
    undisturbed, steps = run(model, tokenizer, rows, method, None)
    assert len(steps) >= 3
    for kill_at in (2, 3):
        with pytest.raises(KilledError):
            run(model, tokenizer, rows, method, tmp_path / "steps", kill_at)
    assert list((tmp_path / "steps").glob("*.safetensors"))
    resumed, left = run(model, tokenizer, rows, method, tmp_path / "steps")
    assert left == steps[2:]  # the third was under way
    for name, p in undisturbed.model.state_dict().items():
        assert torch.equal(p, resumed.model.state_dict()[name]), name
    assert resumed.history == undisturbed.history
    assert (resumed.details, resumed.warnings) == (undisturbed.details, undisturbed.warnings)
    for what in ("gradient_evaluations", "forward_evaluations"):
        assert getattr(resumed.cost, what) == getattr(undisturbed.cost, what)


def test_another_request_does_not_go_on_from_there(tiny: Any, tokenizer: Any, rows: Any, tmp_path: Path) -> None:
    model = tiny("opt").float()
    with pytest.raises(KilledError):
        run(model, tokenizer, rows, "npo", tmp_path, 2)
    others = {**rows, "forget": rows["forget"][:3]}
    assert run(model, tokenizer, others, "npo", tmp_path)[1][0] == 1
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    assert run(model, tokenizer, rows, "npo", tmp_path)[1][0] == 1


def test_another_base_is_another_run(tiny: Any, tokenizer: Any, rows: Any, tmp_path: Path) -> None:
    model = tiny("opt").float()
    with pytest.raises(KilledError):
        run(model, tokenizer, rows, "retrain", tmp_path, 3)
    base = tiny("opt", seed=5).float()
    done: list[int] = []
    unlearn(
        model, tokenizer, **rows, base=base, method="retrain", seed=3, batch_size=4, keep=tmp_path,
        progress=lambda step, steps, loss: done.append(step), **OPTIONS["retrain"],
    )  # fmt: skip
    assert done[0] == 1


def test_parts_come_back_as_they_were(tmp_path: Path) -> None:
    """Parameters, an optimiser with momentum, infinite numbers, tuples, and vectors with and without entries."""

    class Means:
        eta, pair, none, m = float("inf"), (1.0, 2.5), {}, {"w": torch.tensor([1.0, -0.0])}

    layer = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        layer(torch.ones(2)).sum().backward()
        optimizer.step()

    means = Means()
    parts = [Weights(layer), Optimised(optimizer), Named(means, ("eta", "pair", "none", "m"))]
    outcome, passes = Outcome(None, warnings=["w"], details={"damping": 0.1}), Passes(7)
    for k in Keeper(tmp_path, "key").steps(3, outcome, passes, parts):
        if k == 1:
            break
        step()
        outcome.history.append({"loss": 1 / 3})
    kept = [p.detach().clone() for p in layer.parameters()]
    step()
    after = [p.detach().clone() for p in layer.parameters()]
    means.eta, means.pair, means.none, means.m = 0.0, (0.0, 0.0), {"x": torch.zeros(1)}, {}
    other, counted = Outcome(None), Passes()
    assert list(Keeper(tmp_path, "another").steps(1, other, counted, parts)) == [0]
    again = Keeper(tmp_path, "key").steps(3, other, counted, parts)
    assert next(again) == 1
    assert all(torch.equal(p, q) for p, q in zip(layer.parameters(), kept, strict=True))
    step()  # with the momentum of the step before
    assert all(torch.equal(p, q) for p, q in zip(layer.parameters(), after, strict=True))
    assert (means.eta, means.pair, means.none) == (float("inf"), (1.0, 2.5), {})
    assert torch.equal(means.m["w"], torch.tensor([1.0, -0.0]))
    assert (other.history, other.warnings, other.details, counted.forward) == ([{"loss": 1 / 3}], ["w"], {"damping": 0.1}, 7)


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    outcome = Outcome(None)
    assert list(Keeper(tmp_path / "file", "key").steps(4, outcome, Passes(), [])) == [0, 1, 2, 3]
    assert len(outcome.warnings) == 1
    assert "could not be kept" in outcome.warnings[0]


def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, "key")
    (tmp_path / "steps-key.safetensors").write_bytes(b"nothing")
    with pytest.raises(
        InputError, match=r"steps-key.safetensors does not hold the steps of a method .*; delete it to start anew"
    ):
        list(keeper.steps(2, Outcome(None), Passes(), []))
