"""The forget texts one by one, for whoever honours a deletion request: how well each was known before and after.

A text is named by its row, its length and its SHA-256; what it says is shown only on demand. Who can guess a text can check the
guess by its SHA-256, so a report is no public paper even without texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from unlearn_lib.audit.texts import DIGITS, best_known
from unlearn_lib.command.report.measure import Measured
from unlearn_lib.data.batches import Example
from unlearn_lib.data.rows import Row, row_sha256, whole_text


def forget_texts(
    rows: Sequence[Row], examples: Sequence[Example], before: Measured, after: Measured, *, show: bool = False
) -> list[dict[str, Any]]:
    """At most 20 forget texts, those best known before first (by extraction strength, then by loss).

    Args:
        rows, examples: The forget set as given and as encoded, one for one: whole texts, also where they were split.
        before, after: What was measured of both models.
        show: Add what each text says, as `text`.

    Returns:
        For each text its `row` in the file (from 1, empty lines not counted), its `tokens` as used, the first 12 digits of its
        `sha256` (see `row_sha256`), and `loss` (nats per scored token) and `extraction_strength` (share of the text), each
        `before` and `after`.
    """

    found = []
    for i in best_known(before.extraction_n, before.losses["forget"]):
        entry: dict[str, Any] = {
            "row": i + 1,
            "tokens": len(examples[i].input_ids),
            "sha256": row_sha256(rows[i])[:DIGITS],
            "loss": {"before": float(before.losses["forget"][i]), "after": float(after.losses["forget"][i])},
            "extraction_strength": {"before": float(before.extraction_n[i]), "after": float(after.extraction_n[i])},
        }
        found.append(entry | ({"text": whole_text(rows[i])} if show else {}))
    return found
