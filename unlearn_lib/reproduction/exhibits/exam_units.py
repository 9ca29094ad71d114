"""Whether the paper's exposures are in nats or in bits, from its own histograms."""

from __future__ import annotations

import math

import pandas as pd

from unlearn_lib.reproduction import paper

UNITS = {"nats": math.log, "bits": math.log2}


def possible(unit: str, highest_rank: int) -> list[float]:
    """The exposures that ranks 1, 2, ... among the references can give: log |S| - log rank."""
    log = UNITS[unit]
    return [log(paper.REFERENCES / rank) for rank in range(1, highest_rank + 1)]


def in_possible_bins(above: float) -> pd.DataFrame:
    """The paper's samples with an exposure above a value (histogram "before" of Figures 6 and 7, p. 12 and 15), and how many of
    them lie in a bin that holds a value which some rank can give, if the unit is nats, or bits.

    With bits, a value as low as the paper's largest takes rank 8, and ranks further down lie so close together that many bins hold
    one: `bins` and `bins that hold a value` say how much of the range that is.
    """
    bars = paper.printed("exposure_histogram")
    bars = bars[(bars.state == "before") & (bars.low >= above)]
    rows = []
    for unit in UNITS:
        values = [value for value in possible(unit, paper.REFERENCES) if above <= value]
        holds = pd.Series([any(low <= value < high for value in values) for low, high in zip(bars.low, bars.high, strict=True)])
        rows.append(
            {
                "unit": unit,
                "largest possible": max(possible(unit, 1)),
                "largest printed bin": bars[bars["count"] > 0].high.max(),
                "bins": len(bars),
                "bins that hold a value": int(holds.sum()),
                "samples": int(bars["count"].sum()),
                "samples in such bins": int(bars["count"][holds.to_numpy()].sum()),
            }
        )
    return pd.DataFrame(rows).set_index("unit")
