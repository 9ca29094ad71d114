"""The classifier of document-level membership inference (Meeus et al., arXiv 2310.15007): a random forest on features of documents,
judged by documents that it has not seen. `unlearn_lib.metrics.documents` says what it is for, and reads documents for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from unlearn_lib.errors import InputError, unknown
from unlearn_lib.metrics.document_features import Document, Floats, Norm, aggregate, bin_edges, histogram, normalised
from unlearn_lib.metrics.indistinguishable import loss_attack_auc
from unlearn_lib.metrics.optional import sklearn

Statistic = Literal["frequency", "probability"]


@dataclass(frozen=True)
class Attack:
    """How documents are told apart; the defaults are the source's.

    Attributes:
        norm: "ratio", "max" or "none": how token probabilities are normalised.
        statistic: "frequency" (TF) or "probability" (GP): what they are normalised by.
        features: "aggregate", or a number of bins for histograms.
        trees: Of the forest; their depth is 5 at most, with 3 documents or more in a leaf.
        folds: In how many parts the documents are held out.
        seed: Of the folds and the forest.

    Raises:
        InputError: An unknown norm, statistic or kind of features; no trees; fewer than two folds.
    """

    norm: Norm = "ratio"
    statistic: Statistic = "frequency"
    features: Literal["aggregate"] | int = "aggregate"
    trees: int = 500
    folds: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.norm not in get_args(Norm):
            raise unknown("norm", self.norm, get_args(Norm))
        if self.statistic not in get_args(Statistic):
            raise unknown("statistic", self.statistic, get_args(Statistic))
        if self.features != "aggregate" and (not isinstance(self.features, int) or self.features < 1):
            raise InputError(f"features is 'aggregate' or a number of bins, at least 1; got {self.features!r}")
        if self.trees < 1 or self.folds < 2:
            raise InputError(f"an attack has at least one tree and two folds; got trees={self.trees} and folds={self.folds}")


@dataclass(frozen=True, eq=False)
class Audit:
    """What an attack found.

    Attributes:
        scores_n: For every document the forest's probability that it is a member, from the fold that held it out; in the order given.
        folds_K: The AUC of every fold, the chance that a random member has a higher score than a random other document of the fold.
    """

    scores_n: Floats
    folds_K: Floats

    @property
    def auc(self) -> float:
        """The mean of the folds. Scores of different folds are those of different forests and are not ranked together."""
        return float(self.folds_K.mean())

    @property
    def spread(self) -> float:
        """The standard deviation of the folds. Their forests share training documents, so that it is no standard error."""
        return float(self.folds_K.std(ddof=1))


@dataclass(frozen=True, eq=False)
class Classifier:
    """A fitted attack: `scores` says how likely it finds documents to be members. Made by `fit_classifier`."""

    attack: Attack
    log_norm_V: Floats
    edges: Floats | None
    low_F: Floats
    range_F: Floats
    forest: Any = field(repr=False)

    def scores(self, documents: Sequence[Document]) -> Floats:
        """`[n]`: the probability that each document is a member, of documents that the classifier was not trained on. They may be read
        under another model than those that it was trained on."""
        features_nF = _features(_values(documents, self.log_norm_V, self.attack), self.edges)
        scores_n: Floats = self.forest.predict_proba((features_nF - self.low_F) / self.range_F)[:, 1]
        return scores_n


def fit_classifier(
    documents: Sequence[Document], member_n: NDArray[np.bool_], log_norm_V: Floats, attack: Attack | None = None
) -> Classifier:
    """Train the forest on documents of which it is known whether they are members.

    Args:
        documents: What the model says of them; see `unlearn_lib.metrics.document_reading`.
        member_n: `[n]`, which of them the model was trained on.
        log_norm_V: The token statistic (`log_norms`), of the same model and reference texts wherever the classifier is used.
        attack: How documents are told apart. The edges of histograms and the scaling of features to [0, 1] come from these documents.

    Raises:
        InputError: scikit-learn is not installed; not one label for every document; only members, or none; a document without tokens.

    Cost: growing `trees` trees; a second for 500 trees and a few hundred documents.
    """
    forests = sklearn("ensemble")
    attack = attack or Attack()
    member_n = np.asarray(member_n, dtype=bool)
    if len(member_n) != len(documents) or member_n.all() or not member_n.any():
        raise InputError(
            f"the classifier needs one label for every document, and both kinds; got {len(documents)} documents and {len(member_n)} "
            f"labels, {int(member_n.sum())} of them of members"
        )
    # the forest draws documents by their position, and what it finds must not depend on the order in which they are given
    order = _canonical(documents, member_n)
    values = _values([documents[i] for i in order], log_norm_V, attack)
    edges = None if attack.features == "aggregate" else bin_edges(values, attack.features)
    features_nF = _features(values, edges)
    low_F, high_F = features_nF.min(0), features_nF.max(0)
    range_F = np.where(high_F > low_F, high_F - low_F, np.inf)  # a feature that never differs becomes 0, here and later
    forest = forests.RandomForestClassifier(
        n_estimators=attack.trees, max_depth=5, min_samples_leaf=3, random_state=attack.seed, n_jobs=1
    )
    forest.fit((features_nF - low_F) / range_F, member_n[order])
    return Classifier(attack, log_norm_V, edges, low_F, range_F, forest)


def audit(
    documents: Sequence[Document],
    member_n: NDArray[np.bool_],
    log_norm_V: Floats,
    attack: Attack | None = None,
    *,
    after: Sequence[Document] | None = None,
) -> Audit:
    """How well held-out documents are told apart, by stratified folds over documents.

    Args:
        documents, member_n, log_norm_V, attack: As of `fit_classifier`. The folds do not depend on the documents' order.
        after: The same documents under another model (after unlearning). Every forest is trained on `documents` and applied to the
            held-out part of `after`; by default that of `documents`.

    Returns:
        An `Audit`.

    Raises:
        InputError: As of `fit_classifier`; fewer documents of a kind than folds; `after` has other documents.

    Cost: `folds` forests.
    """
    folding = sklearn("model_selection")
    attack, member_n = attack or Attack(), np.asarray(member_n, dtype=bool)
    fewest = min(int(member_n.sum()), int((~member_n).sum()))
    if len(documents) != len(member_n) or fewest < attack.folds:
        raise InputError(
            f"{attack.folds} folds need a label for every document and at least as many documents of each kind; got {len(documents)} "
            f"documents and {len(member_n)} labels, {fewest} of the rarer kind. Lower folds or give more documents"
        )
    after = documents if after is None else after
    if [document.tokens_S.tolist() for document in after] != [document.tokens_S.tolist() for document in documents]:
        raise InputError(
            "after has to hold the same documents in the same order, read under another model; read them from the same texts"
        )
    order = _canonical(documents, member_n)
    folds = folding.StratifiedKFold(attack.folds, shuffle=True, random_state=attack.seed)
    scores_n, found = np.full(len(documents), np.nan), []
    for train, held_out in folds.split(order, member_n[order]):
        train, held_out = order[train], order[held_out]
        classifier = fit_classifier([documents[i] for i in train], member_n[train], log_norm_V, attack)
        scores_n[held_out] = classifier.scores([after[i] for i in held_out])
        # the attack on losses counts pairs in which a member's is lower
        mine = torch.from_numpy(-scores_n[held_out])
        found.append(loss_attack_auc(mine[torch.from_numpy(member_n[held_out])], mine[torch.from_numpy(~member_n[held_out])]))
    return Audit(scores_n, np.array(found))


def _values(documents: Sequence[Document], log_norm_V: Floats, attack: Attack) -> list[Floats]:
    return [normalised(document, log_norm_V, attack.norm) for document in documents]


def _features(values: Sequence[Floats], edges: Floats | None) -> Floats:
    return np.stack([aggregate(values_S) if edges is None else histogram(values_S, edges) for values_S in values])


def _canonical(documents: Sequence[Document], member_n: NDArray[np.bool_]) -> NDArray[np.int64]:
    """An order of the documents that does not depend on how they are given: by their tokens, which rounding does not touch."""
    return np.array(
        sorted(range(len(documents)), key=lambda i: (documents[i].tokens_S.tolist(), bool(member_n[i]))), dtype=np.int64
    )
