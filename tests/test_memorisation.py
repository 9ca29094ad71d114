"""Measures of memorisation by hand, on a model that always says the same thing."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unlearn_lib.data.batches import Example
from unlearn_lib.errors import InputError
from unlearn_lib.metrics.indistinguishable import kolmogorov_smirnov, loss_attack_auc
from unlearn_lib.metrics.memorisation import (
    extracted,
    extraction_likelihood,
    extraction_strength,
    memorisation_accuracy,
    right_tokens,
)


class Counting(torch.nn.Module):
    """After token t it predicts t + 1; nothing else."""

    device = torch.device("cpu")

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        return SimpleNamespace(logits=self.scores(input_ids))

    def scores(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot((ids + 1) % 50, 50).float()

    def generate(self, ids: torch.Tensor, generation_config: Any, logits_processor: Any, **_: Any) -> torch.Tensor:
        for _ in range(generation_config.max_new_tokens):
            ids = torch.cat([ids, logits_processor(ids, self.scores(ids[:, -1])).argmax(-1, keepdim=True)], dim=1)
        return ids


class Saying(Counting):
    """It predicts the same token always."""

    def __init__(self, token: int) -> None:
        super().__init__()
        self.token = token

    def scores(self, ids: torch.Tensor) -> torch.Tensor:
        return super().scores(torch.full_like(ids, self.token - 1))


def text(*ids: int, scored_from: int = 0) -> Example:
    return Example(ids, tuple(-100 if i < scored_from else token for i, token in enumerate(ids)))


def test_accuracy() -> None:
    assert memorisation_accuracy(right_tokens(Counting(), [text(1, 2, 3, 9, 10)])) == 3 / 4
    assert memorisation_accuracy(right_tokens(Counting(), [text(1, 2, 3), text(5, 1, 8)])) == 0.5


def test_extraction_strength() -> None:
    """The shortest prefix from which the rest comes exactly: 1 - k / T."""
    examples = [text(1, 2, 3, 4, 5), text(1, 9, 10, 11, 12), text(1, 5, 9, 13, 17), text(7, 7, 7, 1, 2)]
    found = extraction_strength(right_tokens(Counting(), examples))
    assert found.tolist() == pytest.approx([4 / 5, 3 / 5, 0.0, 0.0])  # k = 1; k = 2; never; the last token alone does not count


def test_extracted_after_a_prefix() -> None:
    examples = [text(1, 9, 3, 4, 5), text(1, 2, 3, 4, 9), text(1, 2, 3, 4, 5)]
    assert extracted(right_tokens(Counting(), examples)).tolist() == [True, False, True]
    assert extracted(right_tokens(Counting(), examples), prefix=0.0).tolist() == [False, False, True]
    with pytest.raises(InputError, match="prefix is the share"):
        extracted(right_tokens(Counting(), examples), prefix=1.0)


def test_a_prompt_is_not_scored() -> None:
    assert (
        memorisation_accuracy(right_tokens(Counting(), [text(1, 9, 3, 4, scored_from=2)])) == 0.5
    )  # 9 -> 3 wrong, 3 -> 4 right


def test_extraction_likelihood() -> None:
    """T = 5, n = 2: prefixes of 1, 2 and 3 tokens; the text continues 1 2 3 7 8."""
    # after 1 it says 2 3 4 5, and of (2,3) (3,7) (7,8) one is there; after 1 2: 3 4 5, none of (3,7) (7,8); after 1 2 3: 4 5, not (7,8)
    assert extraction_likelihood(Counting(), [text(1, 2, 3, 7, 8)], n=2) == pytest.approx((1 / 3 + 0 + 0) / 3)
    assert extraction_likelihood(Counting(), [text(1, 2, 3, 4, 5)], n=2) == 1.0
    assert extraction_likelihood(Counting(), [text(1, 2, 3, 4, 5), text(1)], n=2, batch_size=2) == 1.0
    with pytest.raises(InputError, match="EL_10 needs texts of more than 10 tokens"):
        extraction_likelihood(Counting(), [text(1, 2, 3)])


def test_likelihood_of_a_real_model_does_not_depend_on_padding(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    from unlearn_lib.data.batches import encode

    for family in ("opt", "neo"):
        model = tiny(family, dtype=torch.float32)
        examples = encode(texts[:2], tokenizer, 24).examples
        whole = extraction_likelihood(model, examples, n=1, batch_size=64)
        assert extraction_likelihood(model, examples, n=1, batch_size=1) == pytest.approx(whole)


def test_loss_attack() -> None:
    low, high = torch.tensor([0.1, 0.2]), torch.tensor([1.0, 2.0, 3.0])
    assert loss_attack_auc(low, high) == 1.0
    assert loss_attack_auc(high, low) == 0.0
    assert loss_attack_auc(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0])) == (0.5 + 1 + 0 + 0) / 4
    with pytest.raises(InputError, match="at least one"):
        loss_attack_auc(low, torch.tensor([]))


def test_the_smallest_p_depends_on_n_alone() -> None:
    """Disjoint samples of n each: p = 2 / C(2n, n), whatever the distance between them."""
    import math

    for n in (5, 20):
        found = kolmogorov_smirnov(torch.arange(n).float(), torch.arange(n) + 1000.0)
        assert found.distance == 1.0
        assert found.p == pytest.approx(2 / math.comb(2 * n, n))
    same = kolmogorov_smirnov(torch.arange(9).float(), torch.arange(9).float())
    assert (same.distance, same.p) == (0.0, 1.0)
