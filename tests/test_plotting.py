from pathlib import Path

import matplotlib as mpl
import pytest

from unlearn_lib.methods import METHODS
from unlearn_lib.plotting import COLOURS, MARKERS, save_figure, use_style

mpl.use("Agg")


@pytest.mark.filterwarnings("default")
def test_figures_have_identical_bytes_on_a_second_run(tmp_path: Path) -> None:
    import matplotlib.pyplot as plt

    use_style()
    written = []
    for run in ("a", "b"):
        figure, axes = plt.subplots()
        axes.plot([1, 2], [3, 1], label="loss")
        axes.legend()
        written.append([path.read_bytes() for path in save_figure(figure, "plot", tmp_path / run)])
        plt.close(figure)
    assert written[0] == written[1]
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"plot.png", "plot.svg"}


def test_every_method_has_a_colour_and_a_marker_of_its_own() -> None:
    assert set(COLOURS) == set(MARKERS) >= set(METHODS)
    assert len(set(COLOURS.values())) == len(COLOURS)
    assert len(set(MARKERS.values())) == len(MARKERS)
