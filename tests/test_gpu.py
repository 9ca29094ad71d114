"""A GPU gives what the CPU gives: every operator and solver here, every method in test_number_formats.py."""

import pytest
import torch
from ranked import SETTINGS, curvature
from test_ranks import apart

BOUNDS = {"float64": 1e-10, "float32": 1e-4}
LOSSES = 1e-8
"""Of losses in float64: the models take their softmax in float32 there, in another order on each device."""


@pytest.mark.gpu
@pytest.mark.usefixtures("labels_of_the_cpu")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("which", SETTINGS)
def test_curvature_on_a_gpu_is_that_on_the_cpu(which: str) -> None:
    here, there = curvature(which, "cpu"), curvature(which, "cuda")
    assert here.keys() == there.keys()
    for name, tensor in here.items():
        _, form, _, what = name.split("/")
        assert apart(tensor, there[name]) <= max(BOUNDS[form], LOSSES if what == "losses" else 0.0), name
