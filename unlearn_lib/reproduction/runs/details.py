"""What some scenarios record besides: one function for each name of a scenario's `detail`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from unlearn_lib.metrics import exposures
from unlearn_lib.reproduction.runs.weights import last_projection

if TYPE_CHECKING:
    from unlearn_lib.reproduction.runs.bench import Bench


def _nothing(bench: Bench, model: Any, size: int) -> dict[str, Any]:
    return {}


def _exposures(bench: Bench, model: Any, size: int) -> dict[str, Any]:
    """The exposure of every training sample (nats), in the data's own order; which were forgotten is `forgotten`."""
    found = exposures(model, bench.encoded["train"], bench.encoded["reference"])
    return {"exposures": [round(value, 4) for value in found.nats_n.tolist()], "forgotten": sorted(bench.order[:size])}


def _onion(bench: Bench, model: Any, size: int) -> dict[str, Any]:
    """Figure 6 as the text describes it: samples above a cutoff are dropped, the model is retrained, exposures are taken anew.

    The cutoff is the paper's: rank 1 or 2 among the references.
    """
    first = exposures(bench.original, bench.encoded["train"], bench.encoded["reference"])
    cutoff = math.log(bench.scenario.reference_size / 2.5)
    kept = [i for i, value in enumerate(first.nats_n.tolist()) if value < cutoff]
    rest = [bench.encoded["train"][i] for i in kept]
    again = bench.trained("onion", rest, bench.scenario.seed)
    left = exposures(again.model, rest, bench.encoded["reference"])
    return {
        "cutoff": cutoff,
        "exposures": [round(value, 4) for value in first.nats_n.tolist()],
        "kept": kept,
        "exposures_after": [round(value, 4) for value in left.nats_n.tolist()],
    }


def _weights(bench: Bench, model: Any, size: int) -> dict[str, Any]:
    """Figure 4: the last layer's weights beside the retrained model's."""
    return {"weights": last_projection(model, bench.retrained(size).model)}


DETAILS: dict[str, Callable[[Bench, Any, int], dict[str, Any]]] = {
    "": _nothing,
    "exposures": _exposures,
    "onion": _onion,
    "weights": _weights,
}
