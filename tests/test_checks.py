"""A statement is printed where it holds and stops everything where it does not."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from unlearn_lib.checks import DoesNotHoldError, NotRightYetError, check, exercise

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


def test_a_right_answer_is_told_so(capsys: pytest.CaptureFixture[str]) -> None:
    exercise(2, lambda x: abs(x - 1 / 3) < 1e-3, 0.3333, wrong=[0.5, -1 / 3])
    assert capsys.readouterr().out == "exercise 2: right\n"


@pytest.mark.parametrize(
    ("answer", "message"),
    [(..., "exercise 2 has no answer yet; replace the three dots"), (0.4, "exercise 2 is not right yet: think of thirds")],
)
def test_another_answer_is_refused(answer: Any, message: str) -> None:
    with pytest.raises(NotRightYetError, match=message):
        exercise(2, lambda x: abs(x - 1 / 3) < 1e-3, answer, wrong=[0.5], hint="think of thirds")


@pytest.mark.parametrize("wrong", [[0.3, 7], []])
def test_a_check_that_takes_a_wrong_answer_is_refused(wrong: list[float]) -> None:
    with pytest.raises(DoesNotHoldError, match="the check of exercise 2 takes a wrong answer, or has none to refuse"):
        exercise(2, lambda x: x > 1, 2, wrong=wrong)
