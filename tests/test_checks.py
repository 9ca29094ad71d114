"""A checked sentence is printed where it holds, and stops everything where it does not."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from unlearn_lib.checks import CheckError, check


@pytest.mark.parametrize(
    "holds",
    [
        True,
        np.True_,
        np.float64(1.0) < 2.0,
        np.array(True),
        torch.tensor(True),
        torch.tensor(1.0) < 2.0,
        (pd.Series([1, 2]) > 0).all(),
        torch.ones(3).isfinite().all(),
    ],
)
def test_what_holds_is_printed(holds: Any, capsys: pytest.CaptureFixture[str]) -> None:
    check("the gap is closed to 1 %", holds)
    assert capsys.readouterr() == ("the gap is closed to 1 %: yes\n", "")


@pytest.mark.parametrize(
    "holds", [False, np.False_, np.array(False), torch.tensor(False), math.nan < 1, torch.tensor(math.nan) < 1]
)
def test_what_does_not_hold_stops(holds: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CheckError, match=r"^this does not hold: the gap is closed to 1 %$"):
        check("the gap is closed to 1 %", holds)
    assert capsys.readouterr().out == ""
    assert issubclass(CheckError, AssertionError)


@pytest.mark.parametrize(
    ("holds", "kind"),
    [
        (1, "a value of type int: 1"),
        (0, "a value of type int: 0"),
        (None, "None"),
        ("False", "a value of type str: 'False'"),
        ([False], r"a value of type list: \[False\]"),
        (math.nan, "a value of type float: nan"),
        (np.float64(1.0), "a value of type float64"),
        (np.array([True]), r"a value of type ndarray and shape \(1,\)"),
        (np.array([True, False]), r"a value of type ndarray and shape \(2,\)"),
        (torch.tensor([True, True]), r"a value of type Tensor and shape \(2,\)"),
        (torch.tensor(1), "a value of type Tensor"),
        (pd.Series([True, True]), r"a value of type Series and shape \(2,\)"),
        (lambda: False, "a value of type function"),
    ],
)
def test_what_is_neither_true_nor_false_is_refused(holds: Any, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TypeError, match=f"whether it holds that 'all is well' must be True or False, not {kind}"):
        check("all is well", holds)
    assert capsys.readouterr().out == ""
