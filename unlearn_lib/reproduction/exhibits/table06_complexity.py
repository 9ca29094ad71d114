"""Table 6: what a method's cost grows with, from counted gradients (`runs.counts`)."""

from __future__ import annotations

import numpy as np
import pandas as pd


def fitted(counts: pd.DataFrame) -> pd.DataFrame:
    """The coefficients a, b, c of `gradients` = a t + b m + c t m of each method by least squares, and the largest residual."""
    rows = {}
    for method, table in counts.groupby("method", sort=False):
        X = np.stack([table.t, table.m, table.t * table.m], axis=1).astype(float)
        found, *_ = np.linalg.lstsq(X, table.gradients.to_numpy(float), rcond=None)
        residual = np.abs(X @ found - table.gradients).max()
        rows[method] = {"t": found[0], "m": found[1], "t m": found[2], "largest residual": residual}
    return pd.DataFrame(rows).T


def doubled(counts: pd.DataFrame, *names: str) -> pd.Series:
    """The factor by which the gradients of each method grow when the named ones of t and m are doubled, up to the end of the sweep."""
    end = {"t": counts.t.max(), "m": counts.m.max()}
    start = {name: value // 2 if name in names else value for name, value in end.items()}
    by = counts.set_index(["method", "t", "m"]).gradients
    methods = counts.method.drop_duplicates()
    return pd.Series({method: by[method, end["t"], end["m"]] / by[method, start["t"], start["m"]] for method in methods})
