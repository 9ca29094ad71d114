import hashlib
import random
from collections import Counter

import pytest

from unlearn_lib.data.nano.draw import Draw


def test_stream_is_random_random_of_the_key_hash() -> None:
    seed = int.from_bytes(hashlib.sha256(b"a/1").digest(), "big")
    expected = random.Random(seed)
    draw = Draw("a", 1)
    assert [draw.below(1000) for _ in range(50)] == [int(expected.random() * 1000) for _ in range(50)]


def test_stream_is_the_same_on_every_python() -> None:
    draw = Draw("golden")
    assert [draw.below(100) for _ in range(10)] == [78, 79, 63, 4, 37, 90, 0, 6, 53, 91]


def test_sample_has_no_repeats_and_every_item_is_equally_likely() -> None:
    draw = Draw("sample")
    counts = Counter(item for _ in range(6000) for item in draw.sample("abcdef", 2))
    assert all(len(set(draw.sample("abcdef", 4))) == 4 for _ in range(100))
    assert all(abs(count - 2000) < 5 * (2000 * 2 / 3) ** 0.5 for count in counts.values())


def test_weights_are_probabilities() -> None:
    draw = Draw("weighted")
    counts = Counter(draw.weighted([("x", 3.0), ("y", 1.0)]) for _ in range(8000))
    assert abs(counts["x"] - 6000) < 5 * (8000 * 3 / 16) ** 0.5


def test_too_large_a_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot draw 4 of 3"):
        Draw("x").sample("abc", 4)
