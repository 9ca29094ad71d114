"""The paper's methods against its equations, evaluated independently in NumPy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from certified import LOOPED, suited

from unlearn_lib import TrainingConfig, train, unlearn
from unlearn_lib.curvature.precision import KeepFloat64
from unlearn_lib.data.batches import collate, encode
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.losses import sequence_losses
from unlearn_lib.methods import METHODS

FORGET, RETAIN = slice(0, 6), slice(6, 40)
HOLDOUT = [{"text": "%%% §§§ " * (i + 2)} for i in range(4)]  # unlike anything a model expects: a goal above its losses


def numpy_gradient(model: Any, rows: list[dict[str, str]], tokenizer: Any) -> dict[str, np.ndarray]:
    model.zero_grad()
    with KeepFloat64():  # transformers takes the softmax of attention in float32
        sequence_losses(model, collate(encode(rows, tokenizer, 256).examples)).mean().backward()
    return {name: p.grad.reshape(-1).numpy().copy() for name, p in model.named_parameters()}


def recursion_terms(model: Any, retain: list[dict[str, str]], tokenizer: Any) -> list[dict[str, np.ndarray]]:
    """The gradients of D+ in batches of 8, in the order that seed 0 draws."""
    order = torch.randperm(len(retain), generator=torch.Generator().manual_seed(0)).tolist()
    return [numpy_gradient(model, [retain[i] for i in order[k : k + 8]], tokenizer) for k in range(0, len(order), 8)]


def moved(before: Any, after: Any) -> dict[str, np.ndarray]:
    old, new = dict(before.named_parameters()), dict(after.named_parameters())
    return {name: (new[name] - old[name]).detach().reshape(-1).numpy() for name in old}


def equation_8(g: np.ndarray, terms: list[np.ndarray], damping: float) -> np.ndarray:
    """F_m^{-1} g for one block, the recursion written out."""
    inverse = np.eye(len(g)) / damping
    for term in terms:
        u = inverse @ term
        inverse = inverse - np.outer(u, u) / (len(terms) + term @ u)
    return inverse @ g


@pytest.mark.parametrize("damping", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("family", ["opt", "neo"])
def test_fisher_removal_is_equations_7_and_8(
    family: str, damping: float, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]
) -> None:
    model, width = tiny(family), 48
    # A large gamma only keeps the step's digits: theta + gamma d is exact to 1e-16 of gamma d.
    gamma = 1e6
    result = unlearn(
        model,
        tokenizer,
        forget=texts[FORGET],
        retain=texts[RETAIN],
        method="fisher-removal",
        preset="paper",
        step=gamma,
        damping=damping,
    )
    step = moved(model, result.model)
    g = numpy_gradient(model, texts[FORGET], tokenizer)
    terms = recursion_terms(model, texts[RETAIN], tokenizer)
    assert result.details["terms"] == len(terms) == 5
    compared = 0
    for name, flat in g.items():
        for start in range(0, len(flat), width):
            block = slice(start, start + width)
            if not flat[block].any():
                assert not step[name][block].any()  # unused tokens and positions do not move
                continue
            expected = equation_8(flat[block], [term[name][block] for term in terms], damping)
            found = step[name][block] / gamma
            assert np.linalg.norm(found - expected) <= 1e-6 * np.linalg.norm(expected), name
            # a second, independent evaluation: the closed form of what the recursion inverts
            stack = np.stack([term[name][block] for term in terms])
            closed = np.linalg.solve(damping * np.eye(stack.shape[1]) + stack.T @ stack / len(terms), flat[block])
            assert np.linalg.norm(found - closed) <= 1e-6 * np.linalg.norm(closed), name
            if damping == 1.0:
                change, expected_change = found - flat[block], expected - flat[block]
                if np.linalg.norm(expected_change) > 1e-9 * np.linalg.norm(flat[block]):
                    assert np.linalg.norm(change - expected_change) <= 1e-6 * np.linalg.norm(expected_change), name
                    compared += 1
    assert damping != 1.0 or compared > 100


def test_paper_preset_has_the_printed_values() -> None:
    removal = METHODS["fisher-removal"].from_options({"preset": "paper"}).model_dump()
    assert removal | {"step": 2.5e-4, "damping": 1.0, "width": 48, "terms": 1024} == removal
    forgetting = METHODS["fisher-forgetting"].from_options({"preset": "paper"}).model_dump()
    assert forgetting | {"mu": 1e-3, "sigma": 1e-3, "damping": 1.0, "width": 48, "terms": 1024} == forgetting
    assert METHODS["gradient-ascent"].from_options({"preset": "paper"}).model_dump()["step"] == 5e-5


@pytest.mark.parametrize("batch_size", [None, 2])
def test_gradient_ascent_is_algorithm_1(batch_size: int | None, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model = tiny()
    result = unlearn(model, tokenizer, forget=texts[FORGET], method="gradient-ascent", step=0.25, forget_batch_size=batch_size)
    theta = tiny()
    for start in range(0, 6, batch_size or 6):
        g = numpy_gradient(theta, texts[start : start + (batch_size or 6)], tokenizer)
        with torch.no_grad():
            for name, p in theta.named_parameters():
                p += 0.25 * torch.from_numpy(g[name]).view_as(p)
    for name, p in theta.named_parameters():
        torch.testing.assert_close(dict(result.model.named_parameters())[name], p)
    assert result.cost.gradient_evaluations == 6


def test_ascent_through_adam_by_hand(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    """Two steps with known gradients: catches a doubled momentum, a wrong sign, a missing bias correction."""
    model = tiny()
    result = unlearn(
        model, tokenizer, forget=texts[FORGET], method="gradient-ascent", optimizer="adam", step=1e-3, forget_batch_size=3
    )
    theta, first, second = tiny(), {}, {}
    for t, start in enumerate((0, 3), start=1):
        g = numpy_gradient(theta, texts[start : start + 3], tokenizer)
        with torch.no_grad():
            for name, p in theta.named_parameters():
                first[name] = 0.9 * first.get(name, 0) + 0.1 * g[name]
                second[name] = 0.98 * second.get(name, 0) + 0.02 * g[name] ** 2
                update = first[name] / (1 - 0.9**t) / (np.sqrt(second[name] / (1 - 0.98**t)) + 1e-8)
                p += 1e-3 * torch.from_numpy(update).view_as(p)
    for name, p in theta.named_parameters():
        torch.testing.assert_close(dict(result.model.named_parameters())[name], p, rtol=1e-6, atol=1e-9)


def test_fisher_forgetting_is_algorithm_3(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model, width, damping = tiny(), 48, 1e-3
    result = unlearn(
        model,
        tokenizer,
        forget=texts[FORGET],
        retain=texts[RETAIN],
        method="fisher-forgetting",
        preset="paper",
        damping=damping,
        mu=2.0,
        sigma=3.0,
    )
    step = moved(model, result.model)
    terms = recursion_terms(model, texts[RETAIN], tokenizer)
    generator = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        normal = torch.randn(p.shape, generator=generator, dtype=torch.float64).reshape(-1).numpy()
        for start in range(0, len(normal), width):
            block = slice(start, min(start + width, len(normal)))
            stack = np.stack([term[name][block] for term in terms])
            values, vectors = np.linalg.eigh(damping * np.eye(stack.shape[1]) + stack.T @ stack / len(terms))
            expected = (2.0 * 9.0) ** 0.25 * vectors @ (values**-0.25 * (vectors.T @ normal[block]))
            np.testing.assert_allclose(step[name][block], expected, rtol=1e-6, atol=1e-9)


def test_at_the_papers_damping_forgetting_is_isotropic_noise(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model = tiny()
    result = unlearn(model, tokenizer, forget=texts[FORGET], retain=texts[RETAIN], method="fisher-forgetting", preset="paper")
    noise = np.concatenate(list(moved(model, result.model).values()))
    scale = (1e-3 * 1e-3**2) ** 0.25
    assert abs(noise.std() / scale - 1) < 4 / math.sqrt(2 * len(noise)) + 1e-3
    assert abs(noise.mean()) < 4 * scale / math.sqrt(len(noise))


def test_every_batch_of_forget_adds_a_draw(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    options: dict[str, Any] = {"method": "fisher-forgetting", "preset": "paper", "forget_batch_size": 2}
    result = unlearn(tiny(), tokenizer, forget=texts[FORGET], retain=texts[RETAIN], **options)
    assert len(result.history) == 3


def test_retrain_starts_from_the_base(tiny: Any, tokenizer: Any, texts: list[dict[str, str]], fingerprint: Any) -> None:
    base, model = tiny(seed=0), tiny(seed=1)
    options = {"epochs": 2, "learning_rate": 1e-3}
    result = unlearn(
        model, tokenizer, forget=texts[FORGET], retain=texts[RETAIN], base=base, method="retrain", seed=5, **options
    )
    train(base, tokenizer, texts[RETAIN], TrainingConfig(2, 1e-3), seed=5)
    assert fingerprint(result.model) == fingerprint(base)


@pytest.mark.parametrize("method", LOOPED)
def test_the_given_model_is_unchanged_and_a_seed_repeats(
    method: str, tiny: Any, tokenizer: Any, texts: list[dict[str, str]], fingerprint: Any
) -> None:
    model = tiny(dtype=torch.float32)
    train(model, tokenizer, texts, TrainingConfig(3, 1e-2))  # so that it knows them better than the held-out ones
    model = suited(method, model, tokenizer, texts)
    before = fingerprint(model)
    arguments: dict[str, Any] = {
        "forget": texts[FORGET],
        "retain": texts[RETAIN],
        "holdout": HOLDOUT,
        "base": tiny(dtype=torch.float32, seed=3),
        "method": method,
        "seed": 11,
        **({"max_steps": 2} if method == "newton" else {"steps": 2} if method in ("fisher-removal", "kfac-newton") else {}),
        **({"steps": 3, "approach": 2} if method == "constrained-newton" else {}),
        **({"small": "nano/opt-s"} if method == "delta-unlearning" else {}),
    }
    first = unlearn(model, tokenizer, **arguments)
    assert fingerprint(model) == before
    assert fingerprint(first.model) != before
    assert fingerprint(unlearn(model, tokenizer, **arguments).model) == fingerprint(first.model)
    assert first.config["method"] == method
    assert not first.model.training


def test_one_adamw_step_with_a_known_gradient(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model, g = tiny(), numpy_gradient(tiny(), texts[FORGET], tokenizer)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = TrainingConfig(epochs=1, learning_rate=1e-2, batch_size=6, clip_norm=1e9)
    train(model, tokenizer, texts[FORGET], config)
    for name, p in model.named_parameters():
        # Adam's first step, with bias correction: lr g / (|g| + eps)
        expected = -1e-2 * g[name] / (np.abs(g[name]) + 1e-8)
        np.testing.assert_allclose((p - before[name]).detach().reshape(-1).numpy(), expected, rtol=1e-5, atol=1e-9)


def test_duplicates_of_forget_texts_leave_the_retain_set(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    arguments: dict[str, Any] = {
        "forget": texts[FORGET],
        "method": "fisher-removal",
        "step": 1.0,
        "steps": 1,
        "solver": "diagonal",
    }
    result = unlearn(tiny(), tokenizer, retain=texts[FORGET] + texts[RETAIN], **arguments)
    dropped = "6 retain texts are exact duplicates of forget texts and were dropped from the retain set"
    assert [warning for warning in result.warnings if "duplicates" in warning] == [dropped]
    clean = unlearn(tiny(), tokenizer, retain=texts[RETAIN], **arguments)
    assert all(torch.equal(a, b) for a, b in zip(result.model.parameters(), clean.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "newton-raphson"}, "unknown method 'newton-raphson'; choose one of: retrain, finetune, gradient-ascent"),
        (
            {"method": "fisher-removal", "lamda": 1},
            "unknown option of fisher-removal 'lamda'; choose one of: retain_limit, target_loss, step",
        ),
        ({"method": "fisher-removal", "damping": 0}, "option damping of fisher-removal is 0: Input should be greater than 0"),
        ({"method": "fisher-removal", "step": math.nan}, "option step of fisher-removal is nan"),
        ({"method": "fisher-removal", "preset": "papers"}, "unknown preset of fisher-removal 'papers'; choose one of: paper"),
        ({"method": "fisher-removal", "retain": None}, "needs retain: the texts that the model should keep"),
        ({"method": "retrain"}, "needs base: the checkpoint from before training"),
        ({"method": "gradient-ascent", "forget": []}, "the forget set is empty"),
        ({"method": "finetune", "retain": "forget"}, "every retain text is also in the forget set"),
    ],
)
def test_bad_calls_are_refused_in_one_sentence(
    arguments: dict[str, Any], message: str, tiny: Any, tokenizer: Any, texts: list[dict[str, str]]
) -> None:
    given: dict[str, Any] = {"forget": texts[FORGET], "retain": texts[RETAIN], **arguments}
    if given["retain"] == "forget":
        given["retain"] = given["forget"]
    with pytest.raises(InputError, match=message.replace("(", r"\(").replace("...", r"\.\.\.")):
        unlearn(tiny(), tokenizer, **given)


def test_a_diverged_model_is_refused(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    model = tiny()
    with torch.no_grad():
        next(model.parameters()).fill_(math.nan)
    with pytest.raises(NumericsError, match="became nan; lower the learning rate"):
        unlearn(model, tokenizer, forget=texts[FORGET], method="gradient-ascent")
    with pytest.raises(NumericsError, match="lower learning_rate"):
        unlearn(model, tokenizer, forget=texts[FORGET], retain=texts[RETAIN], method="finetune")
