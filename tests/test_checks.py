"""A statement is printed where it holds and stops everything where it does not."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from unlearn_lib.checks import DoesNotHoldError, check

TRUE = [True, np.bool_(True), torch.tensor(1.0) < 2, np.array(1) < 2, pd.Series([1, 2]).lt(3).all(), np.float64(1) < 2]


@pytest.mark.parametrize("holds", TRUE)
def test_what_holds_is_printed(holds: Any, capsys: pytest.CaptureFixture[str]) -> None:
    check("one is less than two", holds)
    assert capsys.readouterr().out == "holds: one is less than two\n"


@pytest.mark.parametrize("holds", [False, np.bool_(False), torch.tensor(3.0) < 2, pd.Series([1, 5]).lt(3).all()])
def test_what_does_not_hold_raises(holds: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DoesNotHoldError, match="this does not hold: three is less than two"):
        check("three is less than two", holds)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "holds", [1, 0.0, "True", None, np.array([True, True]), torch.tensor([True]), torch.tensor(1.0), [True]]
)
def test_what_is_no_truth_value_is_refused(holds: Any) -> None:
    with pytest.raises(TypeError, match="takes one truth value"):
        check("whatever", holds)
