"""Distances of two models' predictions: by hand on fixed logits, against scipy, and their invariances."""

import math
from dataclasses import astuple
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.stats import ks_2samp, wasserstein_distance

from unlearn_lib.data.batches import Example, encode, make_batches
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.losses import evaluate
from unlearn_lib.metrics.agreement import Agreement, greedy_agreement
from unlearn_lib.metrics.distance import Distances, compare, distances, jensen_shannon, loss_distances
from unlearn_lib.metrics.divergence import divergence, log_probs

V = 6


class Fixed(torch.nn.Module):
    """After token t it always has the same logits, row t of a table; it writes the most likely token."""

    device = torch.device("cpu")
    config = SimpleNamespace(eos_token_id=None, max_position_embeddings=32)

    def __init__(self, table_VV: torch.Tensor, eos: int | None = None) -> None:
        super().__init__()
        self.table_VV, self.calls = table_VV.double(), 0
        self.config = SimpleNamespace(eos_token_id=eos, max_position_embeddings=32)

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        self.calls += 1
        return SimpleNamespace(logits=self.table_VV[input_ids])

    def generate(self, ids: torch.Tensor, generation_config: Any, **_: Any) -> torch.Tensor:
        for _ in range(generation_config.max_new_tokens):
            ids = torch.cat([ids, self.table_VV[ids[:, -1:]].argmax(-1)], dim=1)
        return ids


def saying(*follows: int) -> torch.Tensor:
    """The logits of a model that after token t says `follows[t]`."""
    return torch.nn.functional.one_hot(torch.tensor(follows), V).double()


def table(seed: int) -> torch.Tensor:
    return torch.randn(V, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def text(*ids: int, scored_from: int = 0) -> Example:
    return Example(ids, tuple(-100 if i < scored_from else token for i, token in enumerate(ids)))


TEXTS = [text(1, 2, 3, 4), text(0, 5), text(2, 2, 1, 0, 4, 3, scored_from=3)]


def test_divergences_by_hand() -> None:
    """Of scipy's Jensen-Shannon distance, token by token, mean by text and then over the texts."""
    one, other = table(0), table(1)
    p_VV, q_VV = one.softmax(-1).numpy(), other.softmax(-1).numpy()
    js, kl = [], []
    for example in TEXTS:
        before = [a for a, label in zip(example.input_ids, example.labels[1:], strict=False) if label != -100]
        js.append(np.mean([jensenshannon(p_VV[a], q_VV[a]) ** 2 for a in before]))
        kl.append(np.mean([(p_VV[a] * np.log(p_VV[a] / q_VV[a])).sum() for a in before]))
    for size in (1, 2, 3):
        batches = make_batches(TEXTS, size)
        found = compare(Fixed(one), Fixed(other), batches)
        torch.testing.assert_close(found.js_N, torch.tensor(js))
        torch.testing.assert_close(found.kl_N, torch.tensor(kl))
        assert jensen_shannon(Fixed(one), Fixed(other), batches) == pytest.approx(np.mean(js))
        assert divergence(Fixed(one), Fixed(other), batches) == pytest.approx(np.mean(kl))


def test_one_pass_of_each_model_gives_everything() -> None:
    one, other = Fixed(table(0)), Fixed(table(1))
    compare(one, other, make_batches(TEXTS, 2))
    assert (one.calls, other.calls) == (2, 2)


def test_jensen_shannon_is_symmetric_and_at_most_log_2() -> None:
    batches = make_batches(TEXTS, 2)
    one, other = Fixed(table(0)), Fixed(table(1))
    assert jensen_shannon(one, other, batches) == pytest.approx(jensen_shannon(other, one, batches), rel=1e-12)
    assert jensen_shannon(one, one, batches) == pytest.approx(0, abs=1e-15)
    sure, otherwise = Fixed(1e4 * saying(1, 2, 3, 4, 5, 0)), Fixed(1e4 * saying(2, 3, 4, 5, 0, 1))
    assert jensen_shannon(sure, otherwise, batches) == pytest.approx(math.log(2))


def test_tokens_that_a_model_rules_out() -> None:
    """JS is finite where KL is not, and `compare`, which gives both, says so."""
    from unlearn_lib.metrics.divergence import sequence_jensen_shannon

    ruled_out = torch.zeros(V, V)
    ruled_out[:, 5] = -math.inf
    (batch,) = make_batches([text(1, 2, 3)], 1)
    p_BSV, q_BSV = log_probs(Fixed(ruled_out), batch), log_probs(Fixed(torch.zeros(V, V)), batch)
    expected = jensenshannon([0.2] * 5 + [0], [1 / 6] * 6) ** 2
    assert sequence_jensen_shannon(p_BSV, q_BSV, batch).tolist() == pytest.approx([expected])
    assert sequence_jensen_shannon(p_BSV, p_BSV, batch).tolist() == pytest.approx([0], abs=1e-12)
    with pytest.raises(NumericsError, match="kl_N holds numbers that are not finite"):
        compare(Fixed(torch.zeros(V, V)), Fixed(ruled_out), [batch])
    with pytest.raises(NumericsError, match="not finite"):
        compare(Fixed(torch.full((V, V), math.nan)), Fixed(ruled_out), [batch])


def test_pooled_losses_are_of_the_scored_tokens_and_their_distances_scipys() -> None:
    one, other = table(0), table(1)
    found = compare(Fixed(one), Fixed(other), make_batches(TEXTS, 2))
    pairs = [(1, 2), (2, 3), (3, 4), (0, 5), (1, 0), (0, 4), (4, 3)]
    expected = [[-float(each.log_softmax(-1)[a, b]) for a, b in pairs] for each in (one, other)]
    torch.testing.assert_close(found.reference_K, torch.tensor(expected[0], dtype=torch.float64))
    torch.testing.assert_close(found.model_K, torch.tensor(expected[1], dtype=torch.float64))
    transport, gap = loss_distances(found.reference_K, found.model_K)
    assert transport == pytest.approx(wasserstein_distance(*expected))
    assert gap == ks_2samp(*expected, method="asymp").statistic
    # one sample moved by 0.3 lies 0.3 away
    assert loss_distances(found.reference_K, found.reference_K + 0.3)[0] == pytest.approx(0.3)
    assert loss_distances(found.reference_K, found.reference_K.flip(0)) == (0.0, 0.0)
    with pytest.raises(InputError, match="sample of token losses is empty"):
        loss_distances(found.reference_K, found.model_K[:0])


def test_agreement_by_hand() -> None:
    """From 1 on: 2 3 4 5 and 2 3 0 2, two of four; from 4 on: 5 0 1 2 and 5 1 2 3, one of four; from 0 on: 1 2 3 4 and 2 3 0 2."""
    one, other = Fixed(saying(1, 2, 3, 4, 5, 0)), Fixed(saying(2, 2, 3, 0, 5, 1))
    texts = [text(9 % V, 1, 5), text(3, 4, 5), text(0, 0)]
    prompts = {"n": 4, "prefix": 2}
    assert greedy_agreement(one, other, texts[:1], **prompts) == Agreement(0.0, 2 / 4)
    assert greedy_agreement(one, other, texts[1:2], **prompts) == Agreement(0.0, 1 / 4)
    assert greedy_agreement(one, other, texts[2:], **prompts) == Agreement(0.0, 0.0)
    for size in (1, 2, 9):
        assert greedy_agreement(one, other, texts, **prompts, batch_size=size).tokens == pytest.approx(1 / 4)
        assert greedy_agreement(one, one, texts, **prompts, batch_size=size) == Agreement(1.0, 1.0)
    assert greedy_agreement(one, other, texts, n=1, prefix=2) == Agreement(2 / 3, 2 / 3)


def test_what_follows_the_end_of_a_text_is_not_compared() -> None:
    """Both write 2 3 and end there; after it they would differ. One that ends sooner than the other disagrees."""
    one, other = Fixed(saying(1, 2, 3, 4, 5, 0), eos=3), Fixed(saying(1, 2, 3, 0, 5, 0), eos=3)
    assert greedy_agreement(one, other, [text(5, 1, 4)], n=5, prefix=2) == Agreement(1.0, 1.0)
    never = Fixed(saying(1, 2, 4, 4, 5, 0), eos=3)  # 2 4 5 0 against 2 3
    assert greedy_agreement(one, never, [text(5, 1, 4)], n=4, prefix=2) == Agreement(0.0, 1 / 4)


def test_the_prompt_of_a_text_is_its_own_where_it_has_one() -> None:
    """After the prompt 0 1 2 both say 3; after the first token alone they would differ."""
    one, other = Fixed(saying(1, 2, 3, 4, 5, 0)), Fixed(saying(2, 2, 3, 4, 5, 0))
    assert greedy_agreement(one, other, [text(0, 1, 2, 3, 4, scored_from=3)], n=2, prefix=1).same == 1.0
    assert greedy_agreement(one, other, [text(0, 1, 2, 3, 4)], n=2, prefix=1).same == 0.0
    assert greedy_agreement(one, other, [text(1)], n=2, prefix=3).same == 1.0  # one token is its own prompt


def test_agreement_refuses() -> None:
    model = Fixed(table(0))
    with pytest.raises(InputError, match="no texts to continue"):
        greedy_agreement(model, model, [])
    with pytest.raises(InputError, match="at least one token each; got n=0"):
        greedy_agreement(model, model, TEXTS, n=0)
    with pytest.raises(InputError, match="n=32 tokens leaves no room"):
        greedy_agreement(model, model, TEXTS, n=32)


def test_prompts_longer_than_the_context_lose_their_beginning(tiny: Any) -> None:
    model = tiny("opt", dtype=torch.float32)
    ids = tuple(2 + i % 50 for i in range(model.config.max_position_embeddings))
    assert greedy_agreement(model, model, [Example(ids, ids)], n=4, prefix=len(ids)) == Agreement(1.0, 1.0)


def test_agreement_of_a_model_is_that_of_greedy_decoding_by_hand(
    tiny: Any, tokenizer: Any, texts: list[dict[str, str]]
) -> None:
    one, other = tiny("opt"), tiny("opt", seed=1)
    with torch.no_grad():  # near enough that they agree now and then
        for p, q in zip(one.parameters(), other.parameters(), strict=True):
            q.copy_(p + 0.03 * q)
    examples, shares, n = encode(texts[:6], tokenizer, 64).examples, [], 6
    for example in examples:
        rows = []
        for model in (one, other):
            ids = list(example.input_ids[:5])
            while len(ids) < 5 + n and (len(ids) == 5 or ids[-1] != model.config.eos_token_id):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
            rows.append(ids[5:])
        longest = max(map(len, rows))
        shares.append(sum(a == b for a, b in zip(*rows, strict=False)) / longest)
    found = greedy_agreement(one, other, examples, n=n, prefix=5, batch_size=4)
    assert found.tokens == pytest.approx(np.mean(shares))
    assert found.same == np.mean([share == 1 for share in shares])
    assert 0 < found.tokens < 1


def test_distances_by_the_name_of_the_set(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    one, other = tiny("neo"), tiny("neo", seed=1)
    sets = {"forget": encode(texts[:5], tokenizer, 256).examples, "retain": encode(texts[5:9], tokenizer, 256).examples}
    found = distances(one, other, sets, batch_size=3, n=4)
    assert list(found) == ["forget", "retain"]
    batches = make_batches(sets["forget"], 2)
    assert found["forget"].kl == pytest.approx(divergence(one, other, batches))
    assert found["forget"].jensen_shannon == pytest.approx(jensen_shannon(one, other, batches))
    assert found["forget"].texts == 5
    assert found["forget"].scored == sum(example.scored for example in sets["forget"])
    same = distances(one, one, sets, n=4)["retain"]
    assert astuple(same)[:6] == pytest.approx((0, 0, 0, 0, 1, 1), abs=1e-12)
    assert one.training is other.training is False


def test_the_pieces_of_a_long_text_are_one_text(tiny: Any, tokenizer: Any, texts: list[dict[str, str]]) -> None:
    one, other = tiny("opt"), tiny("opt", seed=1)
    examples = encode(texts[-3:], tokenizer, 24, long_texts="split").examples
    assert len(examples) > 3
    found = distances(one, other, {"set": examples}, n=2)["set"]
    kl_N = compare(one, other, make_batches(examples, 1)).kl_N
    rows = sorted({example.row for example in examples if example.row is not None})
    means = []
    for row in rows:
        mine = [i for i, example in enumerate(examples) if example.row == row]
        weights = np.array([examples[i].scored for i in mine])
        means.append((kl_N[mine].numpy() * weights).sum() / weights.sum())
    assert found.texts == 3
    assert found.kl == pytest.approx(np.mean(means))


def test_a_model_that_has_learned_the_texts_is_farther_on_them(
    memorised: Any, tokenizer: Any, texts: list[dict[str, str]]
) -> None:
    """Orientation: from an untrained model, the losses of learned texts lie lower, by the mean difference."""
    from copy import deepcopy

    base = deepcopy(memorised)
    torch.manual_seed(1)
    for module in base.modules():
        base._init_weights(module)
    learned, unseen = (encode(part, tokenizer, 256).examples for part in (texts[:24], texts[24:]))
    found = distances(base, memorised, {"learned": learned, "unseen": unseen}, n=2)
    assert found["learned"].wasserstein > found["unseen"].wasserstein
    pooled = [
        float((evaluate(model, make_batches(learned, 8)) * torch.tensor([e.scored for e in learned])).sum())
        / sum(e.scored for e in learned)
        for model in (base, memorised)
    ]
    assert found["learned"].wasserstein >= pooled[0] - pooled[1] - 1e-4


def test_what_cannot_be_compared_is_refused() -> None:
    batches = make_batches(TEXTS, 2)
    with pytest.raises(InputError, match="predicts 6 tokens and the model 7"):
        compare(Fixed(table(0)), Fixed(torch.zeros(V, V + 1)), batches)
    with pytest.raises(InputError, match="no texts on which"):
        distances(Fixed(table(0)), Fixed(table(1)), {"empty": []})


def test_distances_are_frozen() -> None:
    with pytest.raises(AttributeError):
        Distances(0, 0, 0, 0, 1, 1, 1, 1).kl = 1.0  # type: ignore[misc]
