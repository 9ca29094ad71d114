r"""Document-level membership inference: was a whole document in the training data? (Meeus et al., arXiv 2310.15007)

A random forest learns from documents of which it is known. It sees features of how the model predicts their tokens
(`unlearn_lib.metrics.document_features`) and is judged by documents that it has not seen: every document is scored by the forest
of the fold that it was held out of. An AUC of 0.5 says that nothing can be told, up to the spread of the folds.

After unlearning, the attacker of the original model is one to stand up to, too: forests that were trained on documents under that
model read the held-out documents under the unlearned one (`after`). An AUC near 0.5 then says that what gave members away
before does so no more; one well below 0.5, that forgotten documents stand out from unseen ones in another way.

The result depends on members and others being of one kind. Where they differ otherwise (by date, by source, by length), a classifier
finds that, and the AUC says nothing of the model. The control is an audit of a model that was trained on neither, which should
give 0.5. Copies of a document fall into different folds and are to be removed before.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from unlearn_lib.data.given import rows_of
from unlearn_lib.metrics.document_classifier import Attack, Audit, audit
from unlearn_lib.metrics.document_features import Floats, log_norms, token_frequencies
from unlearn_lib.metrics.document_reading import CONTEXT, predicted_probabilities, read_documents, windows


def document_audit(
    model: Any,
    tokenizer: Any,
    members: Any,
    others: Any,
    *,
    after: Any | None = None,
    reference: Any | None = None,
    attack: Attack | None = None,
    context: int = CONTEXT,
    batch_size: int = 32,
) -> Audit:
    """How well documents that a model was trained on are told from others, by their tokens' probabilities.

    Args:
        model: A causal language model in evaluation mode.
        tokenizer: Its tokenizer.
        members, others: Data sets as `rows_of` takes them, a document a row: documents that the model was trained on, and documents of
            the same kind that it never saw.
        after: Another model with the same tokenizer, under which held-out documents are read: an unlearned one. The token statistic
            and the forests are those of `model`.
        reference: Texts for the token statistic. By default all the documents that are audited, whose labels are not looked at.
        attack: How documents are told apart.
        context: Tokens of a window; see `read_documents`.
        batch_size: Windows in a forward pass.

    Returns:
        An `Audit`; its scores are those of the members first, then those of the others.

    Raises:
        InputError: scikit-learn is not installed; fewer documents of a kind than folds; a document with a single token.
        NumericsError: A probability is not a number.

    Cost: a forward pass of each model over the documents, another of `model` over the reference for the statistic "probability", and
    a forest for every fold.
    """
    attack = attack or Attack()
    member_rows, other_rows = rows_of(members, "members"), rows_of(others, "others")
    rows = [*member_rows, *other_rows]
    references = rows if reference is None else reference
    log_norm_V = log_norms(_statistic(model, tokenizer, references, attack, context, batch_size))
    documents = read_documents(model, tokenizer, rows, context=context, batch_size=batch_size)
    changed = None if after is None else read_documents(after, tokenizer, rows, context=context, batch_size=batch_size)
    member_n = np.arange(len(rows)) < len(member_rows)
    return audit(documents, member_n, log_norm_V, attack, after=changed)


def _statistic(model: Any, tokenizer: Any, rows: Any, attack: Attack, context: int, batch_size: int) -> Floats:
    if attack.statistic == "probability":
        return predicted_probabilities(model, tokenizer, rows, context=context, batch_size=batch_size)
    scored = [[label for label in example.labels[1:] if label >= 0] for example in windows(model, tokenizer, rows, context)]
    return token_frequencies(scored, model.config.vocab_size)
