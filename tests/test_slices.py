"""Damage by slice: slices and means by hand, intervals against theory, nearness against its definition."""

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch

from unlearn_lib.data.batches import Example, encode
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.metrics.slices import damage_by_slice, nearness


def text(*ids: int) -> Example:
    return Example(ids, ids)


def test_nearness_is_the_largest_cosine_of_tf_idf_vectors() -> None:
    retained, forgotten = [text(1, 2, 2), text(3, 4), text(9)], [text(1, 2), text(3, 3, 2)]
    texts = [example.input_ids for example in (*retained, *forgotten)]
    vocabulary = sorted({token for ids in texts for token in ids})
    idf = [math.log((1 + 5) / (1 + sum(token in ids for ids in texts))) + 1 for token in vocabulary]
    vectors = np.array([[ids.count(token) * weight for token, weight in zip(vocabulary, idf, strict=True)] for ids in texts])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = (vectors[:3] @ vectors[3:].T).max(1)
    np.testing.assert_allclose(nearness(retained, forgotten), expected)
    assert nearness(retained, forgotten)[2] == 0
    assert nearness([*retained, text(2, 1)], forgotten)[3].item() == pytest.approx(1)  # tokens in another order


def test_slices_by_hand() -> None:
    before, after = torch.zeros(8), torch.tensor([8.0, 1, 2, 3, 4, 5, 6, 7])
    near = torch.tensor([0.9, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    found = damage_by_slice(before, after, near, 4)
    assert [(one.n, one.rise) for one in found] == [(2, 1.5), (2, 3.5), (2, 5.5), (2, 7.5)]
    assert found[0].near == pytest.approx((0.1, 0.2))
    assert found[-1].near == pytest.approx((0.7, 0.9))
    assert all(one.interval[0] <= one.rise <= one.interval[1] for one in found)
    (whole,) = damage_by_slice(before + 1, after + 1, near, 1)
    assert (whole.n, whole.rise) == (8, 4.5)
    alone = damage_by_slice(before, after, near, 8)
    assert [one.n for one in alone] == [1] * 8
    assert math.isnan(alone[0].interval[0])
    assert sum(one.n for one in damage_by_slice(before, after, near, 3)) == 8
    assert len(damage_by_slice(before, after, near, 100)) == 8


def test_texts_of_equal_nearness_are_in_one_slice() -> None:
    near = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.6, 0.6])
    found = damage_by_slice(torch.zeros(8), torch.arange(8.0), near, 4)
    # the quartiles are 0, 0 and 0.6
    assert [one.n for one in found] == [6, 2]
    assert [one.rise for one in found] == [2.5, 6.5]
    assert [one.n for one in damage_by_slice(torch.zeros(3), torch.ones(3), torch.zeros(3), 4)] == [3]


def test_the_order_of_texts_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    before, after, near = (torch.rand(50, generator=generator) for _ in range(3))
    order = torch.randperm(50, generator=generator)
    assert damage_by_slice(before[order], after[order], near[order]) == damage_by_slice(before, after, near)


def test_the_interval_is_that_of_the_mean() -> None:
    """400 rises of standard deviation 2: about 1.96 standard errors on either side."""
    rises = 5 + 2 * torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (found,) = damage_by_slice(torch.zeros(400), rises, torch.rand(400), 1)
    half = 1.96 * float(rises.std()) / 20
    assert found.interval == pytest.approx((found.rise - half, found.rise + half), abs=0.03)


def test_what_cannot_be_sliced_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    three = torch.zeros(3)
    for arguments in ((three, three, three[:2]), (three[:0],) * 3, (three, three, three, 0)):
        with pytest.raises(InputError, match="takes both losses and the nearness of the same texts"):
            damage_by_slice(*arguments)
    with pytest.raises(NumericsError, match="not finite"):
        damage_by_slice(three, torch.full((3,), math.nan), three)
    with pytest.raises(InputError, match="one retained and one forgotten"):
        nearness([text(1)], [])
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(InputError, match=r"not installed: pip install 'unlearn_lib\[audit\]'"):
        nearness([text(1)], [text(1)])


def test_near_texts_are_near(tokenizer: Any, texts: list[dict[str, str]]) -> None:
    changed = [{"text": row["text"].replace("the", "a")} for row in texts[:5]]
    retained = encode([*changed, *texts[5:15]], tokenizer, 256).texts
    found = nearness(retained, encode(texts[:5], tokenizer, 256).texts)
    assert found[:5].min() > found[5:].max()
