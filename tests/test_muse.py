"""PrivLeak and its orientation."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from unlearn_lib.data.batches import encode
from unlearn_lib.errors import InputError
from unlearn_lib.metrics.likelihood import TokenScores, score_texts
from unlearn_lib.metrics.muse import holdout_auc, privleak, privleak_of


def scores(*nll: float) -> TokenScores:
    nll_T = torch.tensor(nll, dtype=torch.float64)
    return TokenScores(nll_T, nll_T < 0.5, -nll_T, torch.ones_like(nll_T))


def test_privleak() -> None:
    assert privleak(0.0, 0.4772) == -100.0
    assert privleak(0.5, 0.5) == 0.0
    assert privleak(1.0, 0.5) == 100.0
    assert privleak(0.75, 0.01) == pytest.approx(7400)  # there is no upper bound


def test_privleak_refuses() -> None:
    with pytest.raises(InputError, match="retrained model, whose AUC is missing"):
        privleak(0.5, None)
    with pytest.raises(InputError, match="is 0, so that PrivLeak is not defined"):
        privleak(0.5, 0.0)
    for wrong in (-0.1, 47.7, math.nan):
        with pytest.raises(InputError, match="between 0 and 1"):
            privleak(wrong, 0.5)
        with pytest.raises(InputError, match="between 0 and 1"):
            privleak(0.5, wrong)


def test_the_orientation_by_hand() -> None:
    """Forget texts with the higher likelihood give -100, with the lower one +100 against one half."""
    easy, hard = [scores(0.1, 0.1), scores(0.2, 0.1)], [scores(5.0, 6.0), scores(7.0, 5.0)]
    alike = [scores(1.0, 2.0)], [scores(1.0, 2.0)]
    assert privleak_of(easy, hard, *alike) == -100.0
    assert privleak_of(hard, easy, *alike) == 100.0
    assert privleak_of(*alike, *alike) == 0.0
    with pytest.raises(InputError, match="no texts"):
        privleak_of(easy, [], *alike)


def test_it_is_of_the_lowest_forty_percent() -> None:
    """Of five tokens the two least likely count: 4 and 4 against 5 and 2, although the other tokens say the contrary."""
    forget, holdout = scores(4.0, 4.0, 0.0, 0.0, 0.0), scores(5.0, 2.0, 2.0, 2.0, 2.0)
    assert holdout_auc([forget], [holdout]) == 1.0  # the held-out text has the higher score, -3.5 against -4
    assert holdout_auc([holdout], [forget]) == 0.0


def test_a_model_that_knows_the_forget_texts(memorised: Any, tokenizer: Any, texts: Sequence[dict[str, str]]) -> None:
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    fresh = AutoModelForCausalLM.from_config(memorised.config).eval()
    forget, holdout = (encode(rows, tokenizer, 64).examples for rows in (texts[:24], texts[24:]))
    retrained = score_texts(fresh, forget), score_texts(fresh, holdout)
    assert privleak_of(score_texts(memorised, forget), score_texts(memorised, holdout), *retrained) < -90
    assert privleak_of(*retrained, *retrained) == 0.0
