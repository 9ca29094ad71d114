"""What the fuzz tests share: how many inputs, and how valid input is spoiled.

A fixed set of inputs runs by default, the same on every machine; ten thousand run with the marker `nightly`.
"""

import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from unlearn_lib.errors import InputError

MANY = 10_000


def inputs(few: int = 200, many: int = MANY) -> Any:
    """Parametrises a test by `number`."""
    return pytest.mark.parametrize("number", [few, pytest.param(many, marks=pytest.mark.nightly)])


def fuzz(number: int, strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Call `check` with so many inputs, always the same; the smallest that fails is shown."""
    options = settings(
        max_examples=number,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )

    @options
    @given(strategy)
    def run(value: Any) -> None:
        check(value)

    run()


@contextmanager
def memory(most_mib: int) -> Iterator[None]:
    """Inside, this process can take so many MiB more, and no input makes it try."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    most = now + (most_mib << 20)
    resource.setrlimit(resource.RLIMIT_AS, (most if before[1] == resource.RLIM_INFINITY else min(most, before[1]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def outcome(call: Callable[[], list[Any]]) -> tuple[list[Any], str | None]:
    """`(result, None)`, or `([], sentence)` where it was refused, in one short sentence that can be shown."""
    try:
        return call(), None
    except InputError as error:
        sentence = str(error)
    assert "\n" not in sentence
    assert len(sentence) < 800
    assert sentence.encode().decode() == sentence
    return [], sentence


# JSON as text, right and wrong: what no writer makes is in it, too.
ODD = [
    "NaN", "-Infinity", "1e999", "-0.0", "9" * 5000, "1" * 400, "null", "true", '""', '" "', "[]", "{}", '"\\ud83d"', '"\\udc00"',
    '"\\ud83d\\ude00"', '"\\u0000"', '"\u2028\x85\x0c"', "'text'", "nul", '"open', "[" * 100_000, '{"a":' * 100_000, "[" * 900 + "]" * 900,
]  # fmt: skip
NAMES = ["text", "prompt", "completion", "messages", "role", "content", "id", "text ", "\\ud83d", ""]


def _object(pairs: list[tuple[str, str]]) -> str:
    return "{" + ", ".join(f'"{name}": {value}' for name, value in pairs) + "}"


def json_texts(names: list[str]) -> st.SearchStrategy[str]:
    """Values of every kind, nested, with these names in objects (also twice)."""
    leaves = st.sampled_from(ODD) | (st.text(max_size=20) | st.integers() | st.floats()).map(json.dumps)
    name = st.sampled_from(names)
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4).map(lambda values: "[" + ", ".join(values) + "]")
            | st.lists(st.tuples(name, inner), max_size=4).map(_object)
        ),
        max_leaves=8,
    )


def spoiled(contents: st.SearchStrategy[bytes], pieces: list[bytes] | None = None) -> st.SearchStrategy[bytes]:
    """Bytes changed, cut off, taken out, repeated, or with something put between them; some are left as they are."""
    some = [
        b"",
        b"\x00",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\r",
        b"\n",
        b'"',
        b"\\",
        b"\xed\xa0\xbd",
        b"\xe2\x80\xa8",
        b"\x1c",
        *(pieces or []),
    ]
    place = st.integers(0, 1 << 30)
    step = st.tuples(
        st.sampled_from(["put", "set", "cut", "take", "repeat"]), place, place, st.sampled_from(some) | st.binary(max_size=8)
    )

    def spoil(content: bytes, steps: list[tuple[str, int, int, bytes]]) -> bytes:
        for kind, first, second, piece in steps:
            start = first % (len(content) + 1)
            end = start + second % 64
            content = {
                "put": content[:start] + piece + content[start:],
                "set": content[:start] + piece + content[start + len(piece) :],
                "cut": content[:start],
                "take": content[:start] + content[end:],
                "repeat": content[:end] + content[start:],
            }[kind]
        return content

    return st.builds(spoil, contents, st.lists(step, max_size=4))
