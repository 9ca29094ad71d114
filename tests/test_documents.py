"""Document-level membership inference: features by hand, windows, folds, and a model that has read some documents."""

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from unlearn_lib.data.batches import encode
from unlearn_lib.data.nano import court
from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.errors import InputError, NumericsError
from unlearn_lib.metrics.document_classifier import Attack, audit, fit_classifier
from unlearn_lib.metrics.document_features import (
    AGGREGATES,
    Document,
    aggregate,
    bin_edges,
    histogram,
    log_norms,
    normalised,
    token_frequencies,
)
from unlearn_lib.metrics.document_reading import predicted_probabilities, read_documents
from unlearn_lib.metrics.documents import document_audit

FAST = Attack(trees=15, folds=4)
NORM = np.log(np.full(50, 1 / 50))


def document(p: list[float], p_max: list[float], tokens: list[int] | None = None) -> Document:
    with np.errstate(divide="ignore"):
        return Document(np.array(tokens or range(len(p))), np.log(p), np.log(p_max))


def best(log_p_S: np.ndarray) -> np.ndarray:
    """The most likely token has the probability 0.95, or is the token itself."""
    return np.maximum(log_p_S, math.log(0.95))


def made(count: int, shift: float, seed: int) -> list[Document]:
    """Documents of random tokens whose log-probabilities are higher by `shift`."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        length = int(rng.integers(20, 60))
        log_p_S = -rng.gamma(2.0, 1.0, length) * math.exp(-shift)
        found.append(Document(rng.integers(0, 50, length), log_p_S, best(log_p_S)))
    return found


def mixed(shift: float, count: int = 40) -> tuple[list[Document], np.ndarray]:
    return [*made(count, shift, 0), *made(count, 0.0, 1)], np.arange(2 * count) < count


def test_norms_by_hand() -> None:
    one = document([0.5, 0.1, 0.8], [0.5, 0.7, 0.8], [0, 2, 1])
    log_norm_V = np.log([0.2, 0.5, 0.3])
    expected = [-math.log(0.5 / 0.2), -math.log(0.1 / 0.3), -math.log(0.8 / 0.5)]
    assert normalised(one, log_norm_V, "ratio") == pytest.approx(expected)
    # where the token is the most likely one, only its statistic is left
    expected = [math.log(0.2), -math.log((1 - 0.6) / 0.3), math.log(0.5)]
    assert normalised(one, log_norm_V, "max") == pytest.approx(expected)
    assert normalised(one, log_norm_V, "none") == pytest.approx([-math.log(0.5), -math.log(0.1), -math.log(0.8)])


def test_a_token_without_probability_has_the_highest_value_and_not_a_neutral_one() -> None:
    sure = document([0.0, 1e-30, 0.5], [1.0, 1.0, 1.0])
    for norm in ("ratio", "max", "none"):
        values = normalised(sure, np.zeros(3), norm)
        assert np.isfinite(values).all()
        assert values[0] == pytest.approx(708, abs=1)
        assert values[1] == pytest.approx(30 * math.log(10))  # 1 - p_max is 0 here, and p counts
        assert values[2] == pytest.approx(math.log(2))


def test_unseen_tokens_count_half_of_the_rarest() -> None:
    statistic = token_frequencies([[0, 0, 1], [0, 3, 1, 0]], 5)
    assert statistic == pytest.approx([4 / 7, 2 / 7, 0, 1 / 7, 0])
    assert np.exp(log_norms(statistic)) == pytest.approx([4 / 7, 2 / 7, 1 / 14, 1 / 7, 1 / 14])
    for texts in ([], [[]], [[5]], [[-1]]):
        with pytest.raises(InputError, match="tokens from 0 to 4"):
            token_frequencies(texts, 5)
    for bad in (np.zeros(3), np.array([0.5, -0.1]), np.array([0.5, np.nan])):
        with pytest.raises(InputError, match="at least 0, and some above 0"):
            log_norms(bad)


def test_aggregates_by_hand() -> None:
    values = np.arange(101.0)[::-1]
    found = dict(zip(AGGREGATES, aggregate(values), strict=True))
    assert found["mean"] == found["percentile 50"] == 50
    assert (found["min"], found["max"], found["count"]) == (0, 100, 101)
    assert found["std"] == pytest.approx(math.sqrt((101**2 - 1) / 12))
    assert [found[f"percentile {share}"] for share in (1, 5, 10, 25, 75, 90, 95, 99)] == [1, 5, 10, 25, 75, 90, 95, 99]
    assert aggregate(np.array([3.0])).tolist() == [3, 3, 3, 0, 1, *[3] * 9]
    with pytest.raises(InputError, match="no token that the model predicts"):
        aggregate(np.array([]))


def test_histograms_by_hand() -> None:
    """Densities; what lies outside of the training range is in the outer bins."""
    edges = bin_edges([np.array([0.0, 1.0]), np.array([4.0])], 4)
    assert edges.tolist() == [0, 1, 2, 3, 4]
    assert histogram(np.array([0.5, 1.5, 1.6, 4.0]), edges).tolist() == [0.25, 0.5, 0, 0.25]
    assert histogram(np.array([-9.0, 9.0, 9.0, 9.0]), edges).tolist() == [0.25, 0, 0, 0.75]
    wide = bin_edges([np.array([0.0, 8.0])], 4)
    assert histogram(np.array([1.0, 1.0]), wide).tolist() == [0.5, 0, 0, 0]
    with pytest.raises(InputError, match="at least one bin"):
        bin_edges([np.ones(3)], 0)


@pytest.mark.parametrize("features", ["aggregate", 20])
@pytest.mark.parametrize("norm", ["ratio", "max", "none"])
def test_documents_that_differ_are_told_apart(features: Any, norm: Any) -> None:
    documents, member_n = mixed(1.0)
    attack = Attack(norm, features=features, trees=25, folds=4)
    found = audit(documents, member_n, NORM, attack)
    assert found.auc > 0.95
    assert len(found.folds_K) == 4
    assert audit(documents, ~member_n, NORM, attack).auc > 0.95  # whatever direction it is


def test_documents_that_do_not_differ_are_not() -> None:
    documents, member_n = mixed(0.0, 100)
    found = audit(documents, member_n, NORM, FAST)
    assert abs(found.auc - 0.5) < 0.12
    documents, member_n = mixed(1.0, 100)
    shuffled = np.random.default_rng(0).permutation(member_n)
    assert abs(audit(documents, shuffled, NORM, FAST).auc - 0.5) < 0.12


def test_scores_are_of_held_out_documents() -> None:
    """A forest knows its own documents by heart even where nothing can be learned."""
    documents, member_n = mixed(0.0)
    inside = fit_classifier(documents, member_n, NORM, FAST).scores(documents)
    assert roc_auc_score(member_n, inside) > 0.8
    found = audit(documents, member_n, NORM, FAST)
    assert roc_auc_score(member_n, found.scores_n) < 0.7
    assert np.isfinite(found.scores_n).all()


def test_an_audit_is_sklearns_pipeline() -> None:
    """Folds over the documents in the order of their tokens, scaled by the training part, AUCs by sklearn."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler

    documents, member_n = mixed(0.3)
    found = audit(documents, member_n, NORM, FAST)
    order = np.array(sorted(range(len(documents)), key=lambda i: documents[i].tokens_S.tolist()))
    X = np.stack([aggregate(np.log(1 / 50) - documents[i].log_p_S) for i in order])
    y, aucs = member_n[order], []
    for train, held_out in StratifiedKFold(4, shuffle=True, random_state=0).split(X, y):
        assert abs(y[held_out].mean() - 0.5) < 0.06
        # training documents in the order of their tokens again
        train = np.array(sorted(train))
        forest = RandomForestClassifier(15, max_depth=5, min_samples_leaf=3, random_state=0)
        scores = make_pipeline(MinMaxScaler(), forest).fit(X[train], y[train]).predict_proba(X[held_out])[:, 1]
        np.testing.assert_allclose(found.scores_n[order[held_out]], scores)
        aucs.append(roc_auc_score(y[held_out], scores))
    np.testing.assert_allclose(found.folds_K, aucs)
    assert found.auc == pytest.approx(np.mean(aucs))
    assert found.spread == pytest.approx(np.std(aucs, ddof=1))


def test_the_order_of_documents_does_not_matter() -> None:
    documents, member_n = mixed(0.3)
    order = np.random.default_rng(3).permutation(len(documents))
    for features in ("aggregate", 10):
        attack = Attack(features=features, trees=10, folds=4)
        plain, moved = (
            audit(some, labels, NORM, attack)
            for some, labels in ((documents, member_n), ([documents[i] for i in order], member_n[order]))
        )
        assert moved.folds_K.tolist() == plain.folds_K.tolist()
        assert moved.scores_n.tolist() == plain.scores_n[order].tolist()


def test_the_seed_decides() -> None:
    documents, member_n = mixed(0.3)
    one, same = (audit(documents, member_n, NORM, FAST).scores_n for _ in range(2))
    other = audit(documents, member_n, NORM, Attack(trees=15, folds=4, seed=1)).scores_n
    assert one.tolist() == same.tolist() != other.tolist()


def test_a_classifier_of_one_model_reads_documents_under_another() -> None:
    """After "unlearning", members look like the others: the forests of before find nothing, and where they went too far, less."""
    documents, member_n = mixed(1.0)

    def read(shift: float) -> list[Document]:
        log_p = [
            one.log_p_S * math.exp(shift) if member else one.log_p_S for one, member in zip(documents, member_n, strict=True)
        ]
        return [Document(one.tokens_S, log_p_S, best(log_p_S)) for one, log_p_S in zip(documents, log_p, strict=True)]

    assert audit(documents, member_n, NORM, FAST, after=documents).auc == audit(documents, member_n, NORM, FAST).auc > 0.95
    assert 0.3 < audit(documents, member_n, NORM, FAST, after=read(1.0)).auc < 0.7
    over = audit(documents, member_n, NORM, FAST, after=read(1.4))
    assert over.auc < audit(documents, member_n, NORM, FAST, after=read(1.0)).auc
    classifier = fit_classifier(documents, member_n, NORM, FAST)
    assert classifier.scores(read(1.0))[:40].mean() < classifier.scores(documents)[:40].mean() - 0.3
    with pytest.raises(InputError, match="the same documents in the same order"):
        audit(documents, member_n, NORM, FAST, after=documents[::-1])


def test_features_are_scaled_by_the_training_documents_and_constant_ones_dropped() -> None:
    """All documents have 30 tokens in training, which then tells nothing of a longer one."""
    rng = np.random.default_rng(0)
    some = [Document(rng.integers(0, 50, 30), -rng.gamma(2.0, 1.0, 30), np.zeros(30)) for _ in range(20)]
    classifier = fit_classifier(some, np.arange(20) < 10, NORM, FAST)
    assert classifier.range_F[AGGREGATES.index("count")] == np.inf
    (score,) = classifier.scores([Document(np.tile(some[0].tokens_S, 3), np.tile(some[0].log_p_S, 3), np.zeros(90))])
    assert 0 <= score <= 1


def test_attacks_that_cannot_be_made_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    documents, member_n = mixed(1.0, 3)
    with pytest.raises(InputError, match=r"4 folds need .* 3 of the rarer kind"):
        audit(documents, member_n, NORM, FAST)
    with pytest.raises(InputError, match="both kinds; got 6 documents and 6 labels, 0 of them"):
        fit_classifier(documents, np.zeros(6, dtype=bool), NORM)
    with pytest.raises(InputError, match="one label for every document"):
        fit_classifier(documents, member_n[:5], NORM)
    with pytest.raises(InputError, match="there is a statistic of 2 tokens"):
        fit_classifier(documents, member_n, NORM[:2], FAST)
    for options, said in (
        ({"norm": "min"}, "unknown norm 'min'"),
        ({"statistic": "idf"}, "unknown statistic 'idf'"),
        ({"features": 0}, "number of bins"),
        ({"features": "hist"}, "number of bins"),
        ({"folds": 1}, "two folds"),
        ({"trees": 0}, "one tree"),
    ):
        with pytest.raises(InputError, match=said):
            Attack(**options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="unknown norm 'min'"):
        normalised(documents[0], NORM, "min")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(InputError, match=r"not installed: pip install 'unlearn_lib\[audit\]'"):
        fit_classifier(documents, member_n, NORM)


def judgments(key: str, count: int) -> list[str]:
    return [court.judgment(Draw("documents", key, i), 5) for i in range(count)]


@pytest.mark.parametrize("context", [16, 40, 256])
def test_windows_cover_every_token_but_the_first_once(context: int, tiny: Any, tokenizer: Any) -> None:
    model, rows = tiny("opt"), judgments("windows", 5)
    whole = encode([{"text": row} for row in rows], tokenizer, 10_000).examples
    for found, example in zip(read_documents(model, tokenizer, rows, context=context, batch_size=3), whole, strict=True):
        assert found.tokens_S.tolist() == list(example.input_ids[1:])
        assert (found.log_p_S <= found.log_max_S).all()
        assert (found.log_max_S <= 0).all()


def test_probabilities_are_the_models(tiny: Any, tokenizer: Any) -> None:
    """In one window; in whatever batches; and GP is the mean over texts of the mean over positions."""
    model, rows = tiny("neo"), [*judgments("read", 3), "Short."]
    documents = read_documents(model, tokenizer, rows, context=256, batch_size=4)
    means = []
    for one, row in zip(documents, rows, strict=True):
        (example,) = encode([{"text": row}], tokenizer, 256).examples
        with torch.no_grad():
            log_SV = model(torch.tensor([example.input_ids])).logits[0, :-1].log_softmax(-1)
        np.testing.assert_allclose(one.log_p_S, log_SV[range(len(one.tokens_S)), one.tokens_S], rtol=1e-6)
        np.testing.assert_allclose(one.log_max_S, log_SV.amax(-1), rtol=1e-6)
        means.append(log_SV.exp().mean(0))
    for size in (1, 4):
        found = predicted_probabilities(model, tokenizer, rows, context=256, batch_size=size)
        np.testing.assert_allclose(found, torch.stack(means).mean(0), rtol=1e-6)
    pieces = predicted_probabilities(model, tokenizer, rows, context=24)
    assert pieces.sum() == pytest.approx(1)
    for again, one in zip(read_documents(model, tokenizer, rows, context=256, batch_size=1), documents, strict=True):
        np.testing.assert_allclose(again.log_p_S, one.log_p_S, rtol=1e-6)


def test_reading_refuses(tiny: Any, tokenizer: Any) -> None:
    model = tiny("opt")
    with pytest.raises(InputError, match="no documents to read"):
        read_documents(model, tokenizer, [])
    with pytest.raises(InputError, match="at least 2"):
        read_documents(model, tokenizer, ["A text."], context=1)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    with pytest.raises(NumericsError, match="not a number"):
        read_documents(model, tokenizer, ["A text."])


def test_documents_that_a_model_was_trained_on_are_found() -> None:
    """A nano model that was trained on 40 judgments, among 40 unseen ones. The forests of the trained model find nothing under the
    model before, where both kinds are alike, and neither do forests of that model."""
    from copy import deepcopy

    from unlearn_lib import TrainingConfig, load_model, train

    base, tokenizer = load_model("nano/opt-s", device="cpu")
    rows = judgments("audit", 80)
    members, others = rows[:40], rows[40:]
    model = deepcopy(base)
    train(model, tokenizer, [{"text": row} for row in members], TrainingConfig(8, 3e-3))
    for attack in (FAST, Attack("ratio", "probability", 20, trees=25, folds=4)):
        found = document_audit(model, tokenizer, members, others, attack=attack)
        assert found.auc > 0.9
        assert found.scores_n[:40].mean() > found.scores_n[40:].mean() + 0.3  # members come first
    before = document_audit(model, tokenizer, members, others, attack=FAST, after=base)
    control = document_audit(base, tokenizer, members, others, attack=FAST, reference=judgments("reference", 10))
    # four standard errors of an AUC of 40 against 40
    assert abs(before.auc - 0.5) < 0.26
    assert abs(control.auc - 0.5) < 0.26
    assert model.training is base.training is False
