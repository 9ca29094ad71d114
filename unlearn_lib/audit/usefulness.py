"""The measures of an audit that say what a model is still worth: perplexity, and where the damage to retained texts is."""

from __future__ import annotations

import math
from collections.abc import Iterator

from unlearn_lib.audit.observe import Observed
from unlearn_lib.audit.schema import Measure
from unlearn_lib.audit.texts import Texts
from unlearn_lib.errors import InputError
from unlearn_lib.metrics.slices import damage_by_slice
from unlearn_lib.metrics.utility import perplexity_of

SLICES = 4


def perplexities(role: str, observed: Observed) -> Iterator[Measure]:
    """The perplexity of the texts that should stay likely: the retained and the held-out ones."""
    for name in observed.scores:
        if name != "forget":
            found = perplexity_of(observed.scores[name])
            low, high = found.interval or (None, None)
            yield Measure(
                family="utility", name="perplexity", role=role, texts=name, value=found.value, low=low, high=high, n=found.texts
            )


def slices(role: str, observed: Observed, original: Observed, texts: Texts) -> Iterator[Measure]:
    """The rise of the loss of retained texts since the original, from those least like a forgotten text to those most like one.

    Raises:
        InputError: There are no retained texts; scikit-learn is not installed.
    """
    if "retain" not in observed.scores:
        raise InputError("damage is looked for in texts that should stay; give them with --retain")
    parts = damage_by_slice(original.losses("retain"), observed.losses("retain"), texts.nearness_n, SLICES)
    for number, found in enumerate(parts, 1):
        least, most = found.near
        low, high = found.interval
        known = not math.isnan(low)
        yield Measure(
            family="utility",
            name=f"rise of the loss, slice {number} of {len(parts)}, nearness {least:.2f} to {most:.2f}",
            role=role,
            texts="retain",
            value=found.rise,
            low=low if known else None,
            high=high if known else None,
            n=found.n,
            unit="nats",
        )
