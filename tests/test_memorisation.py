"""Measures of memorisation by hand, on a model that always says the same thing."""

import tracemalloc
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unlearn_lib.curvature.meter import Meter
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


def test_n_grams_count_as_often_as_they_are_written() -> None:
    """The share of what is written that is in the text: 7 7 7 7, 7 7 7 and 7 7 are, the last 7 is not. Sets give half of it."""
    assert extraction_likelihood(Saying(7), [text(1, 7, 7, 7, 9)], n=1) == pytest.approx((1 + 1 + 1 + 0) / 4)
    # pairs: four, three and two times (7, 7), which is in 7 7 7 7 8, 7 7 7 8 and 7 7 8, but not in 7 8
    assert extraction_likelihood(Saying(7), [text(1, 7, 7, 7, 7, 8)], n=2) == pytest.approx((1 + 1 + 1 + 0) / 4)
    assert extraction_likelihood(Saying(7), [text(1, 5, 6, 5, 6)], n=1) == 0.0


def test_a_prompt_is_not_extracted() -> None:
    """Prefixes begin with the whole prompt: 9 9 9 is given, then 10 11 comes."""
    assert extraction_likelihood(Counting(), [text(9, 9, 9, 10, 11, scored_from=3)], n=1) == 1.0
    assert extraction_likelihood(Counting(), [text(9, 9, 9, 12, 10, scored_from=3)], n=1) == pytest.approx((1 / 2 + 0) / 2)
    with pytest.raises(InputError, match="EL_3 needs"):
        extraction_likelihood(Counting(), [text(9, 9, 9, 10, 11, scored_from=3)], n=3)


def test_batches_of_prefixes_do_not_matter() -> None:
    examples = [text(1, 2, 3, 7, 8, 9, 1, 2, 3, 4), text(4, 5, 9, 10, 4, 5)]
    values = {extraction_likelihood(Counting(), examples, n=2, batch_size=size) for size in (1, 2, 3, 64)}
    assert len(values) == 1


def test_likelihood_of_a_model_does_not_depend_on_its_generation_settings(tiny: Any, tokenizer: Any) -> None:
    """Greedy decoding by hand, whatever the model's own settings are, which are left as they were; in a peft model, too."""
    from peft import LoraConfig, get_peft_model

    from unlearn_lib.data.batches import encode

    model, n = tiny("opt"), 2
    (example,) = encode([{"text": "An elephant is a large animal."}], tokenizer, 12).examples
    ids, shares = example.input_ids, []
    for t in range(1, len(ids) - n + 1):
        written = list(ids[:t])
        while len(written) < len(ids):
            written.append(int(model(torch.tensor([written])).logits[0, -1].argmax()))
        pairs = set(zip(ids[t:], ids[t + 1 :], strict=False))
        mine = list(zip(written[t:], written[t + 1 :], strict=False))
        shares.append(sum(pair in pairs for pair in mine) / len(mine))
    expected = pytest.approx(sum(shares) / len(shares))
    assert extraction_likelihood(model, [example], n=n) == expected
    often = max(set(written), key=written.count)
    model.generation_config.update(
        num_return_sequences=3, num_beams=3, do_sample=True, temperature=9.0, repetition_penalty=5.0, no_repeat_ngram_size=1,
        bad_words_ids=[[often]], eos_token_id=[often, 1], forced_eos_token_id=1, min_new_tokens=3, max_new_tokens=4,
        return_dict_in_generate=True, suppress_tokens=[often],
    )  # fmt: skip
    own = model.generation_config
    assert extraction_likelihood(model, [example], n=n) == expected
    assert extraction_likelihood(get_peft_model(model, LoraConfig(target_modules=["fc1"])), [example], n=n) == expected
    assert model.generation_config is own


def test_likelihood_of_a_text_that_fills_the_context(tiny: Any) -> None:
    for family in ("opt", "neo"):
        model = tiny(family, dtype=torch.float32)
        ids = tuple(2 + i % 50 for i in range(model.config.max_position_embeddings))
        assert 0 <= extraction_likelihood(model, [Example(ids, ids)], n=len(ids) - 4) <= 1


def test_loss_attack() -> None:
    low, high = torch.tensor([0.1, 0.2]), torch.tensor([1.0, 2.0, 3.0])
    assert loss_attack_auc(low, high) == 1.0
    assert loss_attack_auc(high, low) == 0.0
    assert loss_attack_auc(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0])) == (0.5 + 1 + 0 + 0) / 4
    with pytest.raises(InputError, match="at least one"):
        loss_attack_auc(low, torch.tensor([]))


@pytest.mark.parametrize(("n", "m", "values"), [(1, 1, 2), (1, 7, 3), (40, 23, 5), (200, 31, 40), (64, 64, 10_000), (5, 5, 1)])
def test_the_loss_attack_is_the_share_of_pairs(n: int, m: int, values: int) -> None:
    """To the last digit, with many ties and with hardly any."""
    generator = torch.Generator().manual_seed(n + m)
    forget, holdout = (torch.randint(0, values, (size,), generator=generator) / 7 for size in (n, m))
    pairs = [(a, b) for a in forget.tolist() for b in holdout.tolist()]
    expected = sum(1.0 if a < b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
    assert loss_attack_auc(forget, holdout) == expected
    assert loss_attack_auc(holdout, forget) == pytest.approx(1 - expected, abs=1e-15)


def test_the_loss_attack_on_many_texts_takes_memory_for_their_losses_alone() -> None:
    """20,000 against 20,000 are 4e8 pairs, 3 GiB of them in float64."""
    n = 20_000
    forget = torch.arange(n).double()
    tracemalloc.start()
    try:
        with Meter() as meter:
            found = loss_attack_auc(forget, forget + n // 2)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # pairs (a, b) with a < b + n / 2: all but those in which a is larger by at least that, the equal ones counting half
    assert found == 1 - (n / 2) ** 2 / 2 / n**2
    assert meter.peak + peak < 8 * 2**20


def test_the_smallest_p_depends_on_n_alone() -> None:
    """Disjoint samples of n each: p = 2 / C(2n, n), whatever the distance between them."""
    import math

    for n in (5, 20):
        found = kolmogorov_smirnov(torch.arange(n).float(), torch.arange(n) + 1000.0)
        assert found.distance == 1.0
        assert found.p == pytest.approx(2 / math.comb(2 * n, n))
    same = kolmogorov_smirnov(torch.arange(9).float(), torch.arange(9).float())
    assert (same.distance, same.p) == (0.0, 1.0)
