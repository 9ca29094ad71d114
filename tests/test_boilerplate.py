from typing import Any

from unlearn_lib.data.batches import Example
from unlearn_lib.reproduction.exhibits.table10_boilerplate import highlighted, shared_tokens


def example(*ids: int) -> Example:
    return Example(ids, ids)


def test_a_token_is_marked_when_its_run_stands_in_enough_other_texts() -> None:
    text = example(*range(100, 120))
    one, two = example(7, *range(103, 112), 7), example(*range(104, 112), 9)
    assert [i for i, mark in enumerate(shared_tokens(text, [one], 1)) if mark] == list(range(3, 12))
    assert [i for i, mark in enumerate(shared_tokens(text, [one, two], 2)) if mark] == list(range(4, 12))
    assert not any(shared_tokens(text, [one], 2))
    assert not any(shared_tokens(example(1, 2, 3), [example(1, 2, 3)], 1))  # shorter than a run


def test_marked_text_is_escaped(tokenizer: Any) -> None:
    ids = tokenizer("<b>Lena & Otto</b>")["input_ids"]
    marks = [i < len(ids) // 2 for i in range(len(ids))]
    page = str(highlighted(tokenizer, example(*ids, tokenizer.eos_token_id), [*marks, False]))
    assert page.count("<mark>") == page.count("</mark>") == 1
    assert page.replace("<mark>", "").replace("</mark>", "") == (
        '<pre style="white-space: pre-wrap">&lt;b&gt;Lena &amp; Otto&lt;/b&gt;</pre>'
    )
