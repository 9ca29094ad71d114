import pytest
from rouge_score.rouge_scorer import RougeScorer

from unlearn_lib.errors import InputError
from unlearn_lib.metrics.rouge import RougeL, rouge_l


def test_by_hand() -> None:
    """`she was born in Tarn` has four words of `she was born at night in Tarn` before Tarn, five with it."""
    found = rouge_l("she was born in Tarn", "She was born at night, in Tarn.", stem=False)
    assert found.precision == 5 / 5
    assert found.recall == 5 / 7
    assert found.f1 == pytest.approx(2 * 5 / (5 + 7))


def test_order_counts_and_case_does_not() -> None:
    assert rouge_l("b a", "A B", stem=False).recall == 1 / 2
    assert rouge_l("A, b!", "a B", stem=False) == RougeL(1.0, 1.0, 1.0)


def test_stems_count_only_where_they_are_asked_for() -> None:
    assert rouge_l("writing novels", "writes novel", stem=True).recall == 1.0
    assert rouge_l("writing novels", "writes novel", stem=False).recall == 0.0


def test_an_empty_answer_is_wrong_and_an_empty_truth_is_refused() -> None:
    assert rouge_l("", "Tarn", stem=True) == RougeL(0.0, 0.0, 0.0)
    for truth in ("", "...", "Τάρν"):
        with pytest.raises(InputError, match=r"has none, so every answer to it would score 0"):
            rouge_l("Tarn", truth, stem=True)


def test_it_is_the_score_of_rouge_score() -> None:
    answer, truth = "the quick brown dog jumps on the log", "the quick brown fox jumps over the lazy dog"
    for stem in (True, False):
        score = RougeScorer(["rougeL"], use_stemmer=stem).score(truth, answer)["rougeL"]
        found = rouge_l(answer, truth, stem=stem)
        assert (found.precision, found.recall, found.f1) == (score.precision, score.recall, score.fmeasure)
