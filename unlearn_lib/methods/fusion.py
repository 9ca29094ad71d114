r"""Unlearning layers of several requests made one set, in closed form (Chen and Yang 2023, arXiv 2310.20150).

Every request i has trained layers of its own on the same base. For each projection in them, with the rows of X_i its inputs as the
model of request i reads the texts of D-_i, the fused projection is the least-squares regression of all outputs on their inputs,

    W = argmin sum_i |X_i W - X_i W_i|^2 = (sum_i X_i^T X_i)^{-1} sum_i X_i^T X_i W_i                          W_i  [inputs, outputs]

The paper says this of the layers' weights. A layer here has two projections with biases: both are regressed, each on its own inputs
(the block's output for the one, the units of the bottleneck for the other), and a bias is the row of W whose input is always 1.

Only X_i^T X_i is needed, so that a request's texts can be deleted when its layers are trained: `layer_moments` takes these matrices.
Those of a fused model are the sums of those that went into it, so that requests can be fused one after the other as well.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unlearn_lib.curvature.precision import in_full
from unlearn_lib.curvature.risk import evaluating
from unlearn_lib.data.batches import LongTexts, encode, make_batches, sequence_length
from unlearn_lib.data.given import rows_of
from unlearn_lib.errors import InputError
from unlearn_lib.losses import token_logits, without_autocast
from unlearn_lib.models.bottlenecks import layers
from unlearn_lib.models.load import load_model
from unlearn_lib.models.unlearning_layers import WithUnlearningLayers, base_weights, same_weights

RANK = 1e-12
"""Directions in which the inputs have less than this share of their largest eigenvalue are none that a regression can speak of."""
Moments = Mapping[str, Tensor]


@without_autocast()
@torch.no_grad()
def layer_moments(
    model: Any,
    tokenizer: Any,
    rows: Any,
    *,
    batch_size: int = 8,
    max_length: int | None = None,
    long_texts: LongTexts = "split",
    assistant_only: bool = True,
) -> dict[str, Tensor]:
    """What `fuse` needs to know of the texts that a model's layers were trained to forget: X^T X of every projection.

    Args:
        model: A model with one stage of unlearning layers, as `unlearn(method="eul")` gives it; left as it is.
        tokenizer: Its tokenizer.
        rows: The texts of the request, D-, as `unlearn` takes them. All their tokens count, scored or not, and none of the padding.
        batch_size: Sequences that go through the model at a time.
        max_length, long_texts, assistant_only: As of `unlearn`.

    Returns:
        `[inputs + 1, inputs + 1]`, float64, on the CPU, by the projection's name; the last input is the 1 that the bias belongs to.
        safetensors' `save_file` keeps them. They are no texts, but they are made from texts, and should be kept as safe.

    Raises:
        InputError: A model without layers, or with several stages; no texts.

    Cost: a forward pass over the texts; 8 (width^2 + bottleneck^2) bytes a layer.
    """
    _check_one_stage(model)
    given = rows_of(rows)
    if not given:
        raise InputError("the data set is empty; give the texts that the layers were trained to forget")
    length = sequence_length(model, tokenizer, max_length)
    examples = encode(given, tokenizer, length, long_texts=long_texts, assistant_only=assistant_only).examples
    found: dict[str, Tensor] = {}
    with evaluating(model), in_full(model.parameters()), _inputs_seen(model) as seen:
        for batch in make_batches(examples, batch_size, model.device):
            token_logits(model, batch)
            kept = batch["attention_mask"].flatten().bool()
            for name, inputs in seen.items():
                # a block may have flattened its texts into one
                X_ni = inputs.flatten(0, -2)[kept].double()
                X_ni = torch.cat([X_ni, X_ni.new_ones(len(X_ni), 1)], -1)
                found[name] = found.get(name, 0) + (X_ni.T @ X_ni).cpu()
    return found


@torch.no_grad()
def fuse(models: Sequence[Any], moments: Sequence[Moments], *, ridge: float = 0.0) -> Any:
    """One model whose layers stand for those of all requests.

    Computed as a change of the mean M of all W_i: W = M + (A + rho I)^+ sum_i X_i^T X_i (W_i - M) with A = sum_i X_i^T X_i and rho =
    ridge times the mean of A's diagonal. This is the formula of the paper where A has full rank and ridge is 0. In directions that no
    input has (A is then rank-deficient) the layers keep the mean, and with a ridge they are drawn towards it: it adds rho / n times the
    sum of the squared norms of W - W_i to what is minimised. So the fusion of one model is itself, and that of twins the twin.

    Args:
        models: For every request its model, or the folder that it was saved in. All have the same base, and one stage of layers of the
            same options, `layer_seed` included: otherwise the units of their bottlenecks have nothing to do with each other.
        moments: For every request what `layer_moments` gives; a request counts by the number of its tokens.
        ridge: Relative to the mean of the diagonal of A.

    Returns:
        A copy of the first model with the fused layers, in its number format. Computed in float64.

    Raises:
        InputError: No model, not as many moments, models that do not fit each other, a negative ridge.

    Cost: an eigendecomposition of A for each projection; memory: two models, and the layers of all.
    """
    if not models or len(models) != len(moments):
        raise InputError(f"fuse takes the moments of every model: got {len(models)} models and {len(moments)} moments")
    if not ridge >= 0:
        raise InputError(f"ridge must be at least 0, got {ridge}")
    first = _model_of(models[0])
    result = copy.deepcopy(first) if first is models[0] else first
    every = [_projections(result), *(_projections(_fitting(result, other)) for other in models[1:])]
    weights = [{name: _as_matrix(projection) for name, projection in one.items()} for one in every]
    for name, projection in every[0].items():
        grams = [_gram(given, name, len(weights[0][name])) for given in moments]
        W = fused(grams, [one[name] for one in weights], ridge)
        projection.weight.copy_(W[:-1].T)
        projection.bias.copy_(W[-1])
    return result


def fused(grams: Sequence[Tensor], weights: Sequence[Tensor], ridge: float) -> Tensor:
    """`[inputs, outputs]`: the W of `fuse` for one projection, from all X_i^T X_i and W_i in float64."""
    A, mean = torch.stack(list(grams)).sum(0), torch.stack(list(weights)).mean(0)
    A.diagonal().add_(ridge * A.diagonal().mean())
    right = torch.stack([gram @ (W - mean) for gram, W in zip(grams, weights, strict=True)]).sum(0)
    values, Q = torch.linalg.eigh(A)
    kept = values > RANK * values[-1]
    change: Tensor = Q[:, kept] @ ((Q[:, kept].T @ right) / values[kept, None])
    return mean + change


def _projections(model: Any) -> dict[str, nn.Linear]:
    """Both projections of all layers, by name."""
    return {
        f"{name}.{part}": projection
        for name, layer in layers(model, 0).items()
        for part, projection in (("down", layer.down), ("up", layer.up))
    }


def _as_matrix(projection: nn.Linear) -> Tensor:
    """`[inputs + 1, outputs]`, float64: a copy of the weights, with the bias as the last row."""
    return torch.cat([projection.weight.T, projection.bias[None]]).detach().double()


def _gram(moments: Moments, name: str, size: int) -> Tensor:
    if name not in moments or moments[name].shape != (size, size):
        raise InputError(
            f"the moments are of other layers than the models': for {name} a matrix of {size} rows was expected; take them with "
            "layer_moments from the same model"
        )
    return moments[name].double()


@contextmanager
def _inputs_seen(model: Any) -> Iterator[dict[str, Tensor]]:
    """Inside, the dict holds what went into every projection in the last forward pass."""
    seen: dict[str, Tensor] = {}

    def noting(name: str) -> Any:
        return lambda _, given: seen.__setitem__(name, given[0].detach())

    hooks = [projection.register_forward_pre_hook(noting(name)) for name, projection in _projections(model).items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _model_of(given: Any) -> Any:
    model = load_model(given)[0] if isinstance(given, (str, Path)) else given
    _check_one_stage(model)
    return model


def _fitting(first: Any, given: Any) -> Any:
    """The model, if its layers can be fused with those of the first."""
    model = _model_of(given)
    if model.stages != first.stages:
        raise InputError(
            f"the layers of the models are not alike ({first.stages[0]} and {model.stages[0]}), so they cannot be fused; train all "
            "requests with the same options bottleneck, activation, after and layer_seed"
        )
    if not same_weights(base_weights(first), base_weights(model)):
        raise InputError(
            "the models have other weights beneath their layers, so they cannot be fused; train all requests from one base"
        )
    return model


def _check_one_stage(model: Any) -> None:
    stages = len(model.stages) if isinstance(model, WithUnlearningLayers) else 0
    if stages != 1:
        raise InputError(
            f"this takes a model with one stage of unlearning layers, and it has {stages}; train every request from the base itself, with "
            'unlearn(..., method="eul")'
        )
