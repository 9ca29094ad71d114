"""One style and one `save_figure`, so that figures look alike and their files are the same bytes on every run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Okabe and Ito's palette for the paper's methods, Tol's muted one for the others: told apart with any colour vision, few of them
# at a time. One colour and one marker per method, everywhere.
COLOURS = {
    "original": "#000000",
    "retrain": "#009E73",
    "finetune": "#56B4E9",
    "gradient-ascent": "#D55E00",
    "gradient-ascent-adam": "#E69F00",
    "gradient-difference": "#882255",
    "npo": "#999933",
    "simnpo": "#661100",
    "constrained-newton": "#222255",
    "fisher-removal": "#0072B2",
    "fisher-removal-calibrated": "#117733",
    "fisher-forgetting": "#CC79A7",
    "newton": "#332288",
    "kfac-newton": "#44AA99",
    "woodbury-newton": "#777777",
    "dp-sgd": "#AA4499",
    "unseen": "#999999",
    "wga": "#88CCEE",
    "undial": "#DDCC77",
    "dpo": "#CC6677",
    "rmu": "#AA7744",
    "memflex": "#6B8E23",
    "sisa": "#8B4513",
    "sophia": "#6699CC",
    "task-vector": "#997700",
    "eul": "#DDAA33",
    "certified-newton": "#117777",
    "delta-unlearning": "#5566AA",
}
MARKERS = {
    "original": "x",
    "retrain": "o",
    "finetune": "s",
    "gradient-ascent": "v",
    "gradient-ascent-adam": "<",
    "gradient-difference": "P",
    "npo": "X",
    "simnpo": "p",
    "constrained-newton": ">",
    "fisher-removal": "D",
    "fisher-removal-calibrated": "H",
    "fisher-forgetting": "^",
    "newton": "*",
    "kfac-newton": "h",
    "woodbury-newton": "d",
    "dp-sgd": "8",
    "unseen": ".",
    "wga": "1",
    "undial": "2",
    "dpo": "3",
    "rmu": "4",
    "memflex": "$M$",
    "sisa": "$S$",
    "sophia": "$H$",
    "task-vector": "$V$",
    "eul": "$U$",
    "certified-newton": "$C$",
    "delta-unlearning": "$D$",
}
STYLE: dict[str, Any] = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.dpi": 110,
    "savefig.dpi": 200,
    "font.size": 9,
    "axes.titlesize": 10,
    "svg.hashsalt": "unlearn_lib",
    "svg.fonttype": "none",
}


def use_style() -> None:
    """Seaborn's white grid with the settings above; white faces, so that a figure stays readable on a dark page."""
    import matplotlib as mpl
    import seaborn as sns

    sns.set_theme(style="whitegrid", context="paper")
    mpl.rcParams.update(STYLE)


def save_figure(figure: Any, name: str, folder: str | Path) -> list[Path]:
    """Write `name.png` and `name.svg` into `folder`; identical bytes for an identical figure."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
        paths.append(folder / f"{name}.{suffix}")
        figure.savefig(paths[-1], bbox_inches="tight", metadata=metadata)
    return paths
