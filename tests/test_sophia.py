"""Sophia's step by hand, its diagonal against the dense Gauss-Newton matrix, and unlearning with it against loops written out."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from dense import Dense, batched, build, examples
from test_first_order import FORGET, RETAIN, gradient, mean_nll, only_rounding, token_log_probs
from torch import Tensor

from unlearn_lib import load_model, save_model, text_losses, unlearn
from unlearn_lib.curvature.meter import Meter
from unlearn_lib.curvature.vector import flatten
from unlearn_lib.data.batches import Example, encode, make_batches
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.methods import bartlett, choose
from unlearn_lib.methods.bartlett import bartlett_diagonal
from unlearn_lib.methods.sophia_step import SophiaStep
from unlearn_lib.unlearning.request import Request
from unlearn_lib.unlearning.unlearn import prepare

ONE_BATCH: dict[str, Any] = {"method": "sophia", "forget_batch_size": None, "retain_batch_size": 4}


def parameter(*values: float, grad: tuple[float, ...]) -> Tensor:
    p = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    p.grad = torch.tensor(grad, dtype=torch.float64)
    return p


def test_two_steps_by_hand() -> None:
    """The first coordinate has curvature, the second has none, the third has neither gradient nor curvature."""
    p = parameter(1.0, 1.0, 1.0, grad=(2.0, -3.0, 0.0))
    step = SophiaStep([p], lr=0.01, betas=(0.9, 0.5), rho=0.1, eps=1e-12)
    step.curvature([torch.tensor([10.0, 0.0, 0.0], dtype=torch.float64)])
    step.step()
    # m = 0.1 g = (0.2, -0.3, 0), once and not twice; h = (5, 0, 0); 0.2 / (0.1 * 5) = 0.4, and the second is clipped
    assert p.tolist() == pytest.approx([1 - 0.01 * 0.4, 1.01, 1.0], rel=1e-14)
    assert step.clipped == 1 / 2
    p.grad = torch.tensor([4.0, 3.0, 0.0], dtype=torch.float64)
    step.step()
    # m = 0.9 (0.2, -0.3) + 0.1 (4, 3) = (0.58, 0.03); h as before; 0.58 / 0.5 is clipped
    assert p.tolist() == pytest.approx([1 - 0.01 * 0.4 - 0.01, 1.0, 1.0], rel=1e-14)
    assert step.clipped == 1.0
    step.curvature([torch.tensor([30.0, 8.0, 0.0], dtype=torch.float64)])  # h = (17.5, 4, 0)
    p.grad = torch.zeros(3, dtype=torch.float64)
    step.step()  # m = (0.522, 0.027), over 1.75 and 0.4
    assert p.tolist() == pytest.approx([0.986 - 0.01 * 0.522 / 1.75, 1 - 0.01 * 0.027 / 0.4, 1.0], rel=1e-14)
    assert step.clipped == 0.0


def test_weight_decay_is_decoupled_and_what_has_no_gradient_stays() -> None:
    p, still = parameter(2.0, grad=(0.0,)), torch.ones(1, requires_grad=True)
    step = SophiaStep([p, still], lr=0.1, betas=(0.9, 0.9), rho=1.0, eps=1e-12, weight_decay=0.5)
    step.step()
    assert p.item() == pytest.approx(2.0 * (1 - 0.1 * 0.5))
    assert (still.item(), step.clipped) == (1.0, 0.0)
    with pytest.raises(ValueError, match="zip"):
        step.curvature([torch.ones(1)])


def few() -> list[Example]:
    """Texts of unequal length, three labels in all, and a prompt that is not scored."""
    return [Example((1, 2, 3), (1, 2, 3)), Example((2, 1, 3), (-100, -100, 3))]


@pytest.mark.parametrize("sizes", [(2,), (1, 1)])
@pytest.mark.parametrize("family", ["opt", "llama"])
def test_the_expected_estimate_is_the_gauss_newton_diagonal(
    family: str, sizes: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly: the mean over all labels that can be drawn, each by its probability."""
    V = 4
    model, batches = build(family, vocabulary=V), batched(few(), sizes)
    expected = Dense(model, few()).gauss_newton().diagonal()
    labels: list[int] = []
    probability = torch.ones((), dtype=torch.float64)

    def draw(z_BSV: Tensor, scored_BS: Tensor, generator: Any) -> Tensor:
        nonlocal probability
        drawn_BS = torch.zeros_like(scored_BS, dtype=torch.long)
        for place in scored_BS.nonzero().tolist():
            drawn_BS[tuple(place)] = labels.pop(0)
            probability = probability * z_BSV[tuple(place)].softmax(-1)[drawn_BS[tuple(place)]]
        return drawn_BS

    monkeypatch.setattr(bartlett, "draw_labels", draw)
    found, total = torch.zeros_like(expected), 0.0
    for chosen in itertools.product(range(V), repeat=3):
        labels, probability = list(chosen), torch.ones((), dtype=torch.float64)
        estimate = flatten(bartlett_diagonal(model, batches, seed=0))
        assert labels == []
        assert (estimate >= 0).all()
        found += probability * estimate
        total += probability.item()
    assert total == pytest.approx(1.0)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * float(expected.max()))


def test_the_draw_is_from_the_model_and_from_the_seed_alone() -> None:
    model, batches = build("gpt2"), batched(examples(), (3, 2))
    torch.manual_seed(3)
    before = torch.get_rng_state()
    found = [flatten(bartlett_diagonal(model, batches, seed)) for seed in range(300)]
    assert torch.equal(torch.get_rng_state(), before)
    expected = Dense(model, examples()).gauss_newton().diagonal().sum().item()
    traces = torch.stack(found).sum(1)
    assert abs(traces.mean().item() - expected) < 4 * traces.std().item() / 300**0.5
    assert traces.std() < expected  # so that the line before says something
    assert torch.equal(flatten(bartlett_diagonal(model, batches, 7)), found[7])
    torch.testing.assert_close(flatten(bartlett_diagonal(model, batched(examples(), (1, 4)), 7)), found[7])
    assert not torch.allclose(found[7], found[8])


def test_the_texts_own_labels_do_not_matter() -> None:
    other = [Example(text.input_ids, tuple(-100 if label == -100 else 3 for label in text.labels)) for text in examples()]
    model = build("opt")
    first, second = (flatten(bartlett_diagonal(model, batched(texts, (5,)), 1)) for texts in (examples(), other))
    assert torch.equal(first, second)


def test_a_model_that_has_diverged_has_no_estimate() -> None:
    model = build("opt")
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(NumericsError, match="labels drawn from the model"):
        bartlett_diagonal(model, batched(examples(), (5,)), 0)


def objective(model: Any, tokenizer: Any, texts: Any, gamma: float = 1.0, alpha: float = 1.0) -> Tensor:
    forget, retain = (mean_nll(token_log_probs(model, texts[part], tokenizer)) for part in (FORGET, RETAIN))
    return -gamma * forget + alpha * retain


def moved(before: Any, after: Any) -> dict[str, Tensor]:
    new = dict(after.named_parameters())
    return {name: (new[name] - p).detach() for name, p in before.named_parameters()}


def test_two_steps_with_the_squared_gradient(tiny: Any, tokenizer: Any, texts: Any) -> None:
    """The losses differentiated one text at a time, and the step written out with min and sign, as the paper's algorithm has it."""
    lr, rho, b1, b2, wd, factor = 1e-3, 3.0, 0.8, 0.7, 0.1, 50.0
    options: dict[str, Any] = {"learning_rate": lr, "rho": rho, "beta1": b1, "beta2": b2, "weight_decay": wd, "epochs": 2}
    options |= {"diagonal": "squared", "squared_factor": factor, "update_every": 1, "forget_weight": 0.5, "retain_weight": 2.0}
    result = unlearn(tiny(), tokenizer, forget=texts[FORGET], retain=texts[RETAIN], **ONE_BATCH, **options)
    theta = tiny()
    m: dict[str, Tensor] = {}
    h: dict[str, Tensor] = {}
    shares = []
    for _ in range(2):
        clipped = total = 0
        g = gradient(objective(theta, tokenizer, texts, 0.5, 2.0), theta)
        for name, p in theta.named_parameters():
            m[name] = b1 * m.get(name, 0) + (1 - b1) * g[name]
            h[name] = b2 * h.get(name, 0) + (1 - b2) * factor * g[name] ** 2
            size = (m[name].abs() / (rho * h[name]).clamp(min=1e-12)).clamp(max=1.0)
            clipped, total = clipped + int((size == 1).sum()), total + int((m[name] != 0).sum())
            with torch.no_grad():
                p.copy_((1 - lr * wd) * p - lr * m[name].sign() * size)
        shares.append(clipped / total)
    for name, p in theta.named_parameters():
        if not only_rounding(name):  # whose gradient is rounding, and of which the sign alone counts
            torch.testing.assert_close(dict(result.model.named_parameters())[name], p, rtol=0, atol=1e-9)
    assert [entry["clipped"] for entry in result.history] == pytest.approx(shares, abs=1e-3)
    assert 0.05 < shares[0] < 0.95  # both branches are taken
    assert result.cost.gradient_evaluations == 2 * 8


@pytest.mark.parametrize(("of", "part"), [("retain", RETAIN), ("forget", FORGET), ("both", slice(0, 8))])
def test_one_step_with_the_estimate(of: str, part: slice, tiny: Any, tokenizer: Any, texts: Any) -> None:
    """Where nothing is clipped, the step times the diagonal is the gradient."""
    model, lr, rho, seed = tiny(), 1e-3, 1e6, 4
    options: dict[str, Any] = {"learning_rate": lr, "rho": rho, "epochs": 1, "diagonal_of": of, "seed": seed}
    result = unlearn(model, tokenizer, forget=texts[FORGET], retain=texts[RETAIN], **ONE_BATCH, **options)
    assert result.cost.gradient_evaluations == 8 + len(texts[part])
    batches = make_batches(encode(texts[part], tokenizer, 256).examples, 8)
    if of != "forget":  # D+ comes in an order drawn from the seed
        order = torch.randperm(4, generator=torch.Generator().manual_seed(seed)).tolist()
        kept = [texts[RETAIN][i] for i in order]
        rows = [texts[FORGET], kept] if of == "both" else [kept]
        batches = [make_batches(encode(some, tokenizer, 256).examples, 8)[0] for some in rows]
    h = bartlett_diagonal(model, batches, seed * 1_000_003)
    g = gradient(objective(model, tokenizer, texts), model)
    for name, d in moved(model, result.model).items():
        expected = -lr * (0.1 * g[name] / (rho * 0.05 * h[name]).clamp(min=1e-12)).clamp(-1, 1)
        if not only_rounding(name):
            torch.testing.assert_close(d, expected, rtol=1e-5, atol=1e-12)


def test_without_curvature_it_is_sign_descent(tiny: Any, tokenizer: Any, texts: Any) -> None:
    model = tiny()
    options: dict[str, Any] = {"rho": 1e-30, "eps": 1e-30, "learning_rate": 1e-3, "epochs": 1}
    result = unlearn(model, tokenizer, forget=texts[FORGET], retain=texts[RETAIN], **ONE_BATCH, **options)
    g = gradient(objective(model, tokenizer, texts), model)
    for name, d in moved(model, result.model).items():
        if not only_rounding(name):
            torch.testing.assert_close(d, -1e-3 * g[name].sign(), rtol=1e-9, atol=1e-12)
    assert result.history[0]["clipped"] == 1.0


def test_npo_as_the_objective(tiny: Any, tokenizer: Any, texts: Any) -> None:
    """At the original its value is 2 log(2) / beta; two steps are those of the loss written out."""
    model, beta, lr = tiny(), 0.2, 1e-4
    options: dict[str, Any] = {
        "objective": "npo",
        "npo_beta": beta,
        "learning_rate": lr,
        "rho": 1e-30,
        "eps": 1e-30,
        "epochs": 2,
    }
    options |= {"retain_weight": 0.0, "beta1": 0.0}
    result = unlearn(model, tokenizer, forget=texts[FORGET], retain=texts[RETAIN], **ONE_BATCH, **options)
    assert result.history[0]["loss"] == pytest.approx(2 / beta * 0.6931471805599453)
    assert result.cost.forward_evaluations == 2 * 4
    reference, theta = [text.detach() for text in token_log_probs(model, texts[FORGET], tokenizer)], tiny()
    for _ in range(2):
        now = token_log_probs(theta, texts[FORGET], tokenizer)
        ratios = [here.sum() - there.sum() for here, there in zip(now, reference, strict=True)]
        loss = torch.stack([2 / beta * torch.log1p(torch.exp(beta * ratio)) for ratio in ratios]).mean()
        last = loss.item()
        with torch.no_grad():
            for p, g in zip(theta.parameters(), gradient(loss, theta).values(), strict=True):
                p -= lr * g.sign()
    assert result.history[1]["loss"] == pytest.approx(last, rel=1e-6)


@pytest.mark.parametrize(("of", "extra"), [("retain", 3), ("forget", 4), ("both", 7)])
def test_the_plan_is_what_is_taken(of: str, extra: int, tiny: Any, tokenizer: Any, texts: Any) -> None:
    """Seven steps with an estimate before every third one."""
    model = tiny()
    options: dict[str, Any] = {
        "epochs": 7,
        "retain_batch_size": 3,
        "forget_batch_size": None,
        "update_every": 3,
        "diagonal_of": of,
    }
    request = Request(forget=texts[FORGET], retain=texts[RETAIN], method="sophia", options=options)
    prepared = prepare(model, tokenizer, request)
    needs = prepared.method.plan(model, prepared.inputs)
    with Meter() as meter:
        result = unlearn(model, tokenizer, forget=texts[FORGET], retain=texts[RETAIN], method="sophia", **options)
    assert needs.gradient_evaluations == result.cost.gradient_evaluations == 7 * (4 + 3) + 3 * extra
    assert needs.peak_memory_bytes == pytest.approx(meter.peak, rel=0.25)
    assert "7 steps with sophia" in str(needs)


def test_it_stops_where_the_forget_loss_reaches_its_goal(memorised: Any, tokenizer: Any, texts: Any, tmp_path: Path) -> None:
    sets = {"forget": texts[:5], "retain": texts[5:24], "holdout": texts[24:]}
    options: dict[str, Any] = {"stop": "calibrate", "retain_limit": None, "learning_rate": 1e-3, "epochs": 200}
    result = unlearn(memorised, tokenizer, **sets, method="sophia", **options)
    before, after = (float(text_losses(model, tokenizer, texts[:5]).mean()) for model in (memorised, result.model))
    goal = result.details["goal"]
    assert abs(after - goal) <= 0.05 * (goal - before)
    assert all(0 < entry["clipped"] <= 1 for entry in result.history)
    save_model(result.model, tokenizer, tmp_path / "model")
    again, _ = load_model(tmp_path / "model", device="cpu")
    batch = make_batches(encode(texts[:3], tokenizer, 64).examples, 3)[0]
    ids = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    assert torch.equal(again(**ids).logits, result.model(**ids).logits)


def test_presets_and_refusals() -> None:
    soul, released = (choose("sophia", {"preset": name}, ["retain"]).model_dump() for name in ("soul", "released"))
    values = {"rho": 0.04, "beta1": 0.9, "beta2": 0.95, "learning_rate": 5e-6, "epochs": 5, "forget_batch_size": 4}
    assert soul | values | {"diagonal": "gnb"} == soul
    assert released | values | {"diagonal": "squared", "squared_factor": 5120.0} == released
    for option, value in (("rho", 0), ("beta1", 1.0), ("beta2", -0.1), ("update_every", 0), ("diagonal", "hutchinson")):
        with pytest.raises(InputError, match=f"option {option} of sophia is"):
            choose("sophia", {option: value}, ["retain"])
    with pytest.raises(InputError, match="needs retain"):
        choose("sophia", {}, [])
