"""A GPU gives what the CPU gives: every operator and solver here, every method in test_number_formats.py."""

import pytest
import torch
from ranked import curvature
from test_ranks import apart

BOUNDS = {"float64": 1e-10, "float32": 1e-4}


@pytest.mark.gpu
@pytest.mark.usefixtures("labels_of_the_cpu")
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_curvature_on_a_gpu_is_that_on_the_cpu() -> None:
    here, there = curvature("cpu"), curvature("cuda")
    assert here.keys() == there.keys()
    for name, tensor in here.items():
        form = name.split("/")[1]
        assert apart(tensor, there[name]) <= BOUNDS[form], name
