"""Every operator on every architecture that transformers builds from its configuration alone, against plain reverse mode."""

import pytest
import torch
from by_reverse_mode import errors, examples
from configurations import CONFIGURATIONS, FAST, NOT_RUN, build
from dense import batched

from unlearn_lib.curvature import EmpiricalFisher, GaussNewton, Hessian

BOUND = 1e-7


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FAST else pytest.mark.nightly) for name in CONFIGURATIONS]
)
@pytest.mark.filterwarnings("default")  # of transformers, about the settings of some architectures
def test_operators_are_those_of_each_sequence_alone(name: str) -> None:
    if name in NOT_RUN:
        pytest.skip(NOT_RUN[name])
    found = errors(build(name))
    assert max(found.values()) < BOUND, found


def test_how_many_configurations_there_are() -> None:
    assert len(CONFIGURATIONS.keys() - NOT_RUN.keys()) >= 57
    assert NOT_RUN.keys() <= CONFIGURATIONS.keys()
