"""MUSE's text measures by hand, on a stand-in that knows given texts by heart and on a true model."""

from typing import Any

import pytest
from reciting import Reciting
from rouge_score.rouge_scorer import RougeScorer

from unlearn_lib import InputError
from unlearn_lib.metrics.muse_text import knowledge_memorisation, verbatim_memorisation

TEXTS = [
    "Ana came to Tarn on a cold day and bought a drum, a rope and two maps.",
    "Bo never left Keld, where the wind was cold.",
]
QUESTIONS = [
    {"prompt": "Question: Who came to Tarn?\nAnswer:", "completion": " Ana came."},
    {"prompt": "Question: Where was Bo?\nAnswer:", "completion": " In Keld."},
]


def model_that_says(tokenizer: Any, texts: list[str], lost: str = " zz", context: int = 256) -> Reciting:
    known = [[*tokenizer(text).input_ids, tokenizer.eos_token_id] for text in texts]
    return Reciting(known, tokenizer(lost).input_ids[0], len(tokenizer), context)


def f1(answer: str, truth: str) -> float:
    return float(RougeScorer(["rougeL"], use_stemmer=False).score(truth, answer)["rougeL"].fmeasure)


def test_a_text_that_is_known_is_recited(tokenizer: Any) -> None:
    for known, percent in [(TEXTS, 100.0), (TEXTS[:1], 50.0), ([], 0.0)]:
        found = verbatim_memorisation(model_that_says(tokenizer, known), tokenizer, TEXTS, 5, max_new_tokens=64)
        assert found.percent == pytest.approx(percent)
    tokens = tokenizer(TEXTS[0]).input_ids
    found = verbatim_memorisation(model_that_says(tokenizer, TEXTS), tokenizer, [{"text": TEXTS[0]}], 5, max_new_tokens=64)
    assert found.written == (tokenizer.decode(tokens[5:]),), "it ends where the text ends"


def test_no_more_is_compared_than_was_written(tokenizer: Any) -> None:
    """Four tokens are written and compared, by the argument or by the context; the rest of the text does not lower the F1."""
    model = model_that_says(tokenizer, TEXTS)
    assert verbatim_memorisation(model, tokenizer, TEXTS, 5, max_new_tokens=4).percent == 100.0
    assert verbatim_memorisation(model_that_says(tokenizer, TEXTS, context=9), tokenizer, TEXTS, 5).percent == 100.0


def test_a_part_of_a_text_counts_as_f1(tokenizer: Any) -> None:
    """The stand-in goes astray: it knows the text up to `drum`."""
    other = TEXTS[0].replace("a rope and two maps", "three more and a ladder")
    prefix = len(tokenizer("Ana came to").input_ids)
    found = verbatim_memorisation(model_that_says(tokenizer, [other]), tokenizer, TEXTS[:1], prefix, max_new_tokens=64)
    rest = " Tarn on a cold day and bought a drum,"
    assert found.written[0].startswith(rest)
    assert found.f1_n.tolist() == pytest.approx([f1(found.written[0], TEXTS[0].removeprefix("Ana came to"))])
    # of 14 words each, the first nine are the same, and of the others `and` or `a`, which stand the other way round
    assert found.f1_n.item() == pytest.approx(2 * 10 / (14 + 14))


def test_a_true_model_does_not_depend_on_batches_and_order(tiny: Any, tokenizer: Any) -> None:
    model = tiny("neo")
    whole = verbatim_memorisation(model, tokenizer, TEXTS * 2, 6, max_new_tokens=8)
    assert verbatim_memorisation(model, tokenizer, TEXTS * 2, 6, max_new_tokens=8, batch_size=1).written == whole.written
    assert verbatim_memorisation(model, tokenizer, TEXTS[::-1], 6, max_new_tokens=8).written == whole.written[1::-1]
    asked = knowledge_memorisation(model, tokenizer, QUESTIONS, max_new_tokens=8)
    assert (
        knowledge_memorisation(model, tokenizer, QUESTIONS[::-1], max_new_tokens=8, batch_size=1).written == asked.written[::-1]
    )


def test_what_cannot_be_recited_is_refused(tokenizer: Any) -> None:
    model = model_that_says(tokenizer, TEXTS)
    with pytest.raises(InputError, match="there are no texts"):
        verbatim_memorisation(model, tokenizer, [], 5)
    with pytest.raises(InputError, match="text 1 has nothing after a prefix of 5 tokens"):
        verbatim_memorisation(model, tokenizer, [TEXTS[0], "Ana"], 5)
    for prefix, most in ((0, 4), (256, 4), (5, 0)):
        with pytest.raises(InputError, match=rf"below 256, the model's context, .* got {prefix} and {most}"):
            verbatim_memorisation(model, tokenizer, TEXTS, prefix, max_new_tokens=most)


def test_an_answer_ends_where_the_next_question_begins(tokenizer: Any) -> None:
    """Whichever mark the model writes after it, and however it goes on then."""
    for goes_on in ("\n\nAna came to Tarn.", "\nQuestion: Who?\nAnswer: Bo", " Question: Who?", ""):
        known = [row["prompt"] + row["completion"] + goes_on for row in QUESTIONS]
        found = knowledge_memorisation(model_that_says(tokenizer, known), tokenizer, QUESTIONS)
        assert [text.strip() for text in found.written] == ["Ana came.", "In Keld."]
        assert found.percent == 100.0
    assert knowledge_memorisation(model_that_says(tokenizer, []), tokenizer, QUESTIONS).percent == 0.0


def test_an_answer_is_no_longer_than_it_may_be(tokenizer: Any) -> None:
    model = model_that_says(tokenizer, [], lost=" a")
    (text,) = knowledge_memorisation(model, tokenizer, [{"prompt": "Who?", "completion": " a b"}], max_new_tokens=3).written
    assert text == " a a a"
    assert knowledge_memorisation(model, tokenizer, [{"prompt": "Who?", "completion": " a b"}]).f1_n.item() == pytest.approx(
        2 / 34
    )


def test_words_are_compared_without_stems(tokenizer: Any) -> None:
    model = model_that_says(tokenizer, ["Who? writing novels"])
    found = knowledge_memorisation(model, tokenizer, [{"prompt": "Who?", "completion": " writes novels"}])
    assert found.f1_n.item() == pytest.approx(1 / 2)


def test_shots_stand_before_every_question(tokenizer: Any) -> None:
    """The stand-in answers only where the example stands before the question."""
    shot, asked = QUESTIONS
    whole = f"{shot['prompt']}{shot['completion']}\n\n{asked['prompt']}{asked['completion']}"
    model = model_that_says(tokenizer, [whole])
    assert knowledge_memorisation(model, tokenizer, [asked], shots=[shot]).percent == 100.0
    assert knowledge_memorisation(model, tokenizer, [asked]).percent == 0.0
    with pytest.raises(InputError, match="question 0 has no 'prompt'"):
        knowledge_memorisation(model, tokenizer, [asked], shots=[{"text": "a"}])
    with pytest.raises(InputError, match="there are no questions"):
        knowledge_memorisation(model, tokenizer, [])
