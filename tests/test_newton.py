"""Newton's method where the truth is known: logistic regression over frozen features, and a quadratic loss."""

from typing import Any

import pytest
import torch
from dense import relative
from torch import Tensor

from unlearn_lib import unlearn
from unlearn_lib.curvature import ConjugateGradients, solve
from unlearn_lib.curvature.operator import Operator
from unlearn_lib.curvature.vector import Vector
from unlearn_lib.data.batches import encode, make_batches
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.losses import sequence_losses
from unlearn_lib.methods.newton import right_hand_side
from unlearn_lib.models import nano

L2 = 1e-2


@pytest.fixture(scope="module")
def lines(texts: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"text": row["text"][:45]} for row in texts]


@pytest.fixture(scope="module")
def features() -> Any:
    """A GPT-NeoX model of which only the head is trained: multinomial logistic regression over its frozen features."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=nano.VOCABULARY, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=128, tie_word_embeddings=False, attn_implementation="eager",
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config).double().eval().requires_grad_(False)
    model.get_output_embeddings().weight.requires_grad_(True)
    return model


def minimise(model: Any, rows: list[dict[str, str]], tokenizer: Any) -> None:
    """Train the head to the optimum of mean loss + (L2 / 2) |theta|^2, to 1e-10 of its gradient."""
    weight = model.get_output_embeddings().weight
    batch = make_batches(encode(rows, tokenizer, 128).examples, len(rows))[0]
    optimizer = torch.optim.LBFGS(
        [weight], max_iter=3000, tolerance_grad=1e-12, tolerance_change=1e-18, line_search_fn="strong_wolfe", history_size=50
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = sequence_losses(model, batch).mean() + 0.5 * L2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert float(weight.grad.norm()) < 1e-8


def trained(features: Any, rows: list[dict[str, str]], tokenizer: Any) -> Any:
    import copy

    model = copy.deepcopy(features)
    minimise(model, rows, tokenizer)
    return model


OPTIONS: dict[str, Any] = {"method": "newton", "damping": 0.0, "l2": L2, "tolerance": 1e-10, "max_steps": 400}


def head(model: Any) -> Tensor:
    return model.get_output_embeddings().weight.detach()


def test_error_falls_with_the_share_forgotten(features: Any, tokenizer: Any, lines: list[dict[str, str]]) -> None:
    """Theory: the error of one step is of second order in n_F / n_R, so relative to the change it is proportional to it.

    Copies of the same text are forgotten, so that the forget gradient's direction stays the same.
    """
    retain = lines[8:]
    retrained = trained(features, retain, tokenizer)
    errors = {}
    for copies in (1, 2, 4):
        forget = lines[:1] * copies
        original = trained(features, forget + retain, tokenizer)
        change = head(retrained) - head(original)
        for side in ("forget", "retain"):
            result = unlearn(original, tokenizer, forget=forget, retain=retain, right_hand_side=side, **OPTIONS)
            errors[side, copies] = float((head(result.model) - head(retrained)).norm() / change.norm())
        # at a minimum of the whole risk both right-hand sides are the same
        assert errors["forget", copies] == pytest.approx(errors["retain", copies], rel=1e-4)
    assert errors["forget", 1] < 0.1
    assert 1.5 < errors["forget", 2] / errors["forget", 1] < 2.5, errors
    assert 1.5 < errors["forget", 4] / errors["forget", 2] < 2.5, errors


def test_a_second_step_is_much_closer(features: Any, tokenizer: Any, lines: list[dict[str, str]]) -> None:
    original, retrained = (trained(features, rows, tokenizer) for rows in (lines, lines[8:]))
    arguments: dict[str, Any] = {
        "forget": lines[:8],
        "retain": lines[8:],
        "right_hand_side": "retain",
        "adapt": False,
        **OPTIONS,
    }
    distance = [
        float((head(unlearn(original, tokenizer, steps=steps, **arguments).model) - head(retrained)).norm()) for steps in (1, 2)
    ]
    assert distance[1] < 0.1 * distance[0]


def test_gauss_newton_and_hessian_agree_for_a_head(features: Any, tokenizer: Any, lines: list[dict[str, str]]) -> None:
    """The logits are linear in the head's weights."""
    original = trained(features, lines[:12], tokenizer)
    arguments: dict[str, Any] = {"forget": lines[:2], "retain": lines[2:12], **OPTIONS}
    found = [head(unlearn(original, tokenizer, curvature=kind, **arguments).model) for kind in ("gauss-newton", "hessian")]
    assert float((found[0] - found[1]).norm()) < 1e-7 * float((found[0] - head(original)).norm())


class Quadratic(Operator):
    """A dense symmetric matrix as an operator."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.params = matrix, {"w": torch.zeros(len(matrix), dtype=torch.float64)}

    def mv(self, v: Vector) -> Vector:
        return {"w": self.matrix @ v["w"]}


def test_exact_for_a_quadratic_loss() -> None:
    """Ridge regression: from the minimum on all data one step with either right-hand side is the minimum without some."""
    generator = torch.Generator().manual_seed(0)
    X, y = torch.randn(30, 6, generator=generator).double(), torch.randn(30, generator=generator).double()

    def minimum(rows: slice) -> Tensor:
        A, b, n = X[rows], y[rows], len(X[rows])
        return torch.linalg.solve(A.T @ A / n + L2 * torch.eye(6).double(), A.T @ b / n)

    def risk_gradient(rows: slice, w: Tensor) -> Tensor:
        return X[rows].T @ (X[rows] @ w - y[rows]) / len(X[rows]) + L2 * w

    whole, forget, retain = slice(0, 30), slice(0, 5), slice(5, 30)
    w = minimum(whole)
    H = Quadratic(X[retain].T @ X[retain] / 25)
    for side in ("forget", "retain"):
        v = right_hand_side(side, {"w": risk_gradient(forget, w)}, {"w": risk_gradient(retain, w)}, 5 / 25)
        step = solve(H, v, ConjugateGradients(L2), tolerance=1e-13).value
        assert isinstance(step, dict)
        assert relative(w + step["w"], minimum(retain)) < 1e-10


def test_levenberg_marquardt_takes_a_bad_step_back(
    tiny: Any, tokenizer: Any, texts: list[dict[str, str]], fingerprint: Any
) -> None:
    model = tiny()
    arguments: dict[str, Any] = {"forget": texts[:4], "retain": texts[4:12], "method": "newton", "max_steps": 8}
    # next to no damping: far outside where the quadratic model holds
    far = {**arguments, "retain": texts[4:5], "max_steps": 30, "tolerance": 1e-9}
    result = unlearn(model, tokenizer, steps=2, step=1.9, damping=1e-9, **far)
    assert [entry["kept"] for entry in result.history] == [0.0, 0.0]
    assert [entry["damping"] for entry in result.history] == pytest.approx([1e-9, 1.5e-9])
    assert fingerprint(result.model) == fingerprint(model)
    assert result.warnings[-1].startswith("nothing was done: every step made its own objective worse")
    # with much of it the promise holds, for a shortened step, too
    for step in (1.0, 0.25):
        result = unlearn(model, tokenizer, steps=2, step=step, damping=10.0, right_hand_side="retain", **arguments)
        assert all(entry["kept"] for entry in result.history)
        assert [entry["actual"] for entry in result.history] == pytest.approx(
            [entry["predicted"] for entry in result.history], rel=0.05
        )
    with pytest.raises(InputError, match="Levenberg-Marquardt needs a step between 0 and 2"):
        unlearn(model, tokenizer, steps=2, step=2.0, **arguments)


def test_negative_curvature_is_refused(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    with pytest.raises(NumericsError, match="direction of negative curvature"):
        unlearn(tiny(), tokenizer, forget=texts[:4], retain=texts[4:12], method="newton", curvature="hessian", damping=1e-6)


@pytest.mark.nightly
@pytest.mark.parametrize("held_out", [True, False])
@pytest.mark.parametrize(
    ("name", "task", "texts_in_all", "forget", "training"),
    [
        ("nano/opt-s", "arc_easy", 56, 12, (10, 1e-3)),
        ("nano/opt-s", "lambada", 40, 4, (16, 2e-3)),
        ("nano/neo-s", "email", 48, 2, (6, 1e-3)),
        ("nano/neo-s", "arc_easy", 48, 8, (15, 3e-3)),
        ("nano/opt-m", "arc_easy", 52, 8, (8, 1e-3)),
    ],
)
def test_the_defaults_forget_with_little_damage(
    name: str, task: str, texts_in_all: int, forget: int, training: tuple[int, float], held_out: bool
) -> None:
    """On models and data of different kinds; a quarter of the retained texts is not even shown to the method."""
    from unlearn_lib import TrainingConfig, load_model, load_task, text_losses, train

    model, tokenizer = load_model(name, device="cpu")
    data = load_task(task, sizes={"train": texts_in_all, "test": 1, "holdout": 24, "reference": 0})
    train(model, tokenizer, data.train, TrainingConfig(*training))
    kept = forget + 3 * (texts_in_all - forget) // 4
    parts = {"forget": range(forget), "retain": range(forget, kept), "outside": range(kept, texts_in_all)}
    sets = {part: data.train.select(rows) for part, rows in parts.items()}
    holdout = data.holdout if held_out else None
    result = unlearn(model, tokenizer, forget=sets["forget"], retain=sets["retain"], holdout=holdout, method="newton")

    def mean(of: Any, rows: Any) -> float:
        return float(text_losses(of, tokenizer, rows).double().mean())

    rise = {part: mean(result.model, rows) - mean(model, rows) for part, rows in sets.items()}
    print(name, task, {part: (mean(model, rows), mean(result.model, rows)) for part, rows in sets.items()}, result.warnings)
    gap = mean(model, data.holdout) - mean(model, sets["forget"])
    assert rise["forget"] > (0.5 if held_out else 0.3) * gap
    assert rise["retain"] < 0.2 * rise["forget"]
    assert rise["outside"] < 0.25 * rise["forget"]
    assert not any("retained texts" in warning for warning in result.warnings)
