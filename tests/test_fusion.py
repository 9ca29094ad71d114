"""Fusion against least squares on the inputs themselves, and what it must be where the answer is known."""

from pathlib import Path
from typing import Any

import pytest
import torch
from test_bottlenecks import learn
from torch import Tensor

from unlearn_lib import load_model, save_model
from unlearn_lib.curvature.precision import KeepFloat64
from unlearn_lib.data.batches import collate, encode
from unlearn_lib.errors import InputError
from unlearn_lib.methods.fusion import fuse, fused, layer_moments
from unlearn_lib.models.bottlenecks import Shape, layers
from unlearn_lib.models.unlearning_layers import add_stage, layer_weights

PARTS = (slice(0, 8), slice(8, 16), slice(16, 24))
"""The texts of three requests; each has some 200 tokens, more than a layer has inputs."""


def trained(tiny: Any, weights: int, family: str = "opt", **options: Any) -> Any:
    model = tiny(family)
    add_stage(model, Shape(**{"bottleneck": 5, "activation": "gelu", **options}))
    learn(model, weights)
    return model


@torch.no_grad()
def inputs_of(model: Any, rows: Any, tokenizer: Any) -> dict[str, Tensor]:
    """Of every projection all inputs with a 1 at the end, text by text, so that there is no padding: the states that go into a layer
    are noted, and the units computed from them."""
    found: dict[str, list[Tensor]] = {}
    for name, layer in layers(model, 0).items():
        layer.register_forward_pre_hook(lambda _, given, name=name: found.setdefault(name, []).append(given[0].flatten(0, -2)))
    for row in rows:
        batch = collate(encode([row], tokenizer, 256).examples)
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    result = {}
    for name, layer in layers(model, 0).items():
        X = torch.cat(found[name])
        result[f"{name}.down"] = X
        result[f"{name}.up"] = torch.nn.functional.gelu(X @ layer.down.weight.T + layer.down.bias)
        layer._forward_pre_hooks.clear()
    return {name: torch.cat([X, torch.ones(len(X), 1, dtype=X.dtype)], 1) for name, X in result.items()}


def matrices(model: Any) -> dict[str, Tensor]:
    """Of every projection its weights and below them its bias."""
    return {
        f"{name}.{part}": torch.cat([getattr(layer, part).weight.T, getattr(layer, part).bias[None]]).detach()
        for name, layer in layers(model, 0).items()
        for part in ("down", "up")
    }


def moments_of(models: Any, tokenizer: Any, texts: Any) -> list[dict[str, Tensor]]:
    return [layer_moments(model, tokenizer, texts[part]) for model, part in zip(models, PARTS, strict=False)]


@pytest.mark.parametrize("family", ["opt", "neo"])
def test_every_projection_is_the_least_squares_solution(family: str, tiny: Any, tokenizer: Any, texts: Any) -> None:
    models = [trained(tiny, seed, family) for seed in (1, 2, 3)]
    found = matrices(fuse(models, moments_of(models, tokenizer, texts)))
    with KeepFloat64():
        inputs = [inputs_of(model, texts[part], tokenizer) for model, part in zip(models, PARTS, strict=True)]
    for name, W in found.items():
        X = torch.cat([one[name] for one in inputs])
        Y = torch.cat([one[name] @ matrices(model)[name] for one, model in zip(inputs, models, strict=True)])
        expected = torch.linalg.lstsq(X, Y).solution
        assert torch.linalg.matrix_rank(X) == X.shape[1]
        torch.testing.assert_close(W, expected, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(W, sum(matrices(model)[name] for model in models) / 3, rtol=1e-2)  # no mere mean


def problem(rows: int, inputs: int = 6, outputs: int = 4, requests: int = 3) -> tuple[list[Tensor], list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    X = [torch.randn(rows, inputs, generator=generator, dtype=torch.float64) for _ in range(requests)]
    return X, [torch.randn(inputs, outputs, generator=generator, dtype=torch.float64) for _ in range(requests)]


def test_without_full_rank_the_outputs_are_fitted_and_the_rest_is_the_mean() -> None:
    X, W = problem(rows=1)
    found = fused([x.T @ x for x in X], W, 0.0)
    rows, mean = torch.cat(X), torch.stack(W).mean(0)
    targets = torch.cat([x @ w for x, w in zip(X, W, strict=True)])
    torch.testing.assert_close(rows @ found, targets)  # three equations for six unknowns can be met
    nobody = torch.linalg.svd(rows).Vh[3:]  # directions that no input has
    torch.testing.assert_close(nobody @ found, nobody @ mean)
    torch.testing.assert_close(found, mean + torch.linalg.lstsq(rows, targets - rows @ mean, driver="gelsd").solution)


def test_a_ridge_is_least_squares_with_rows_that_ask_for_the_own_weights() -> None:
    X, W = problem(rows=20)
    A = sum(x.T @ x for x in X)
    assert isinstance(A, Tensor)
    rho = 0.3 * A.diagonal().mean()
    extra = (rho / 3) ** 0.5 * torch.eye(6, dtype=torch.float64)
    rows = torch.cat([torch.cat([x, extra]) for x in X])
    targets = torch.cat([torch.cat([x, extra]) @ w for x, w in zip(X, W, strict=True)])
    torch.testing.assert_close(fused([x.T @ x for x in X], W, 0.3), torch.linalg.lstsq(rows, targets).solution)
    torch.testing.assert_close(fused([x.T @ x for x in X], W, 1e12), torch.stack(W).mean(0))


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_one_alone_and_twins_are_what_they_were(ridge: float, tiny: Any, tokenizer: Any, texts: Any, fingerprint: Any) -> None:
    model, twin = trained(tiny, 1), trained(tiny, 1)
    first, second = moments_of([model, twin], tokenizer, texts)
    one, both = fuse([model], [first], ridge=ridge), fuse([model, twin], [first, second], ridge=ridge)
    assert one is not model
    assert fingerprint(one) == fingerprint(both) == fingerprint(model)


def test_one_request_after_the_other_is_all_at_once(tiny: Any, tokenizer: Any, texts: Any, fingerprint: Any) -> None:
    models = [trained(tiny, seed) for seed in (1, 2, 3)]
    before = [fingerprint(model) for model in models]
    moments = moments_of(models, tokenizer, texts)
    at_once = matrices(fuse(models, moments))
    two = fuse(models[:2], moments[:2])
    together = {name: moments[0][name] + moments[1][name] for name in moments[0]}
    found = matrices(fuse([two, models[2]], [together, moments[2]]))
    other_order = matrices(fuse(models[::-1], moments[::-1]))
    for name, W in at_once.items():
        torch.testing.assert_close(found[name], W, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(other_order[name], W, rtol=1e-6, atol=1e-8)
    assert [fingerprint(model) for model in models] == before


def test_moments_do_not_depend_on_how_texts_are_put_together(tiny: Any, tokenizer: Any, texts: Any) -> None:
    model = trained(tiny, 1).train()
    found = [
        layer_moments(model, tokenizer, rows, batch_size=size)
        for rows, size in ((texts[:6], 1), (texts[:6], 4), (texts[5::-1], 6))
    ]
    tokens = sum(len(example.input_ids) for example in encode(texts[:6], tokenizer, 256).examples)
    for name, matrix in found[0].items():
        assert matrix[-1, -1] == tokens  # the ones
        for other in found[1:]:
            torch.testing.assert_close(other[name], matrix, rtol=1e-5, atol=1e-6 * float(matrix.abs().max()))
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_folders_are_taken_as_well_and_the_fusion_is_saved(tiny: Any, tokenizer: Any, texts: Any, tmp_path: Path) -> None:
    save_model(tiny("opt", dtype=torch.float32), tokenizer, tmp_path / "base")
    models = []
    for seed in (1, 2):
        model, _ = load_model(tmp_path / "base", device="cpu")
        add_stage(model, Shape(bottleneck=5))
        learn(model, seed)
        save_model(model, tokenizer, tmp_path / str(seed))
        models.append(model)
    moments = moments_of(models, tokenizer, texts)
    found = fuse([tmp_path / "1", str(tmp_path / "2")], moments)
    expected = layer_weights(fuse(models, moments))
    assert all(torch.equal(p, expected[name]) for name, p in layer_weights(found).items())
    save_model(found, tokenizer, tmp_path / "fused")
    assert not (tmp_path / "fused" / "base").exists()
    again, _ = load_model(tmp_path / "fused", device="cpu")
    assert all(torch.equal(p, expected[name]) for name, p in layer_weights(again).items())


def test_what_cannot_be_fused_is_refused(tiny: Any, tokenizer: Any, texts: Any) -> None:
    model, moments = trained(tiny, 1), layer_moments(trained(tiny, 1), tokenizer, texts[:2])

    def refused(message: str, models: Any, given: Any, **options: Any) -> None:
        with pytest.raises(InputError, match=message):
            fuse(models, given, **options)

    refused("got 0 models and 0 moments", [], [])
    refused("got 2 models and 1 moments", [model, model], [moments])
    refused("ridge must be at least 0", [model], [moments], ridge=-1.0)
    refused("ridge must be at least 0", [model], [moments], ridge=float("nan"))
    refused("it has 0; train every request", [tiny()], [moments])
    refused(r"not alike .* layer_seed", [model, trained(tiny, 1, seed=3)], [moments] * 2)
    refused("other weights beneath", [model, trained(lambda family: tiny(family, seed=4), 1)], [moments] * 2)
    refused("moments are of other layers", [trained(tiny, 1, bottleneck=6)], [moments])
    refused("moments are of other layers", [model], [{}])
    twice = trained(tiny, 1)
    add_stage(twice, Shape())
    refused("it has 2; train every request", [twice], [moments])
    with pytest.raises(InputError, match="it has 0; train every request"):
        layer_moments(tiny(), tokenizer, texts[:1])
    with pytest.raises(InputError, match="the data set is empty"):
        layer_moments(model, tokenizer, [])
