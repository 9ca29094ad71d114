"""Private texts for the case studies: documents made of lines, with planted personal data and near-duplicates at a given rate.

A document has a person with personal data (its *secrets*) and lines of its own. A near-duplicate is a later version of an earlier
document: the same person, the same secrets, the same lines but for a few that are drawn anew, as in a follow-up visit or a mail
that is sent again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unlearn_lib.data.nano.draw import Draw

REVISED = 2
"""Lines of a near-duplicate that are drawn anew."""

Secrets = dict[str, str]
Line = Callable[[Draw, Secrets, bool], str]


@dataclass(frozen=True)
class Kind:
    """A kind of document.

    Attributes:
        secrets: Draws the personal data of a person, by what they are.
        lines: Each writes one line from a draw of its own, the secrets, and whether a reserved fact of the world is told; an empty
            string leaves the line out.
        fact: The position of the line that tells a fact of the world; its last word is what `test` asks for.
    """

    secrets: Callable[[Draw], Secrets]
    lines: Sequence[Line]
    fact: int

    def document(self, key: Sequence[str | int], version: int = 0, *, reserved: bool = False) -> tuple[list[str], Secrets]:
        """(lines, secrets) of the document with that key; another version than 0 is a near-duplicate of it."""
        secrets = self.secrets(Draw(*key, "person"))
        free = [i for i in range(1, len(self.lines)) if i != self.fact]
        new = Draw(*key, "revised", version).sample(free, REVISED) if version else []
        lines = [line(Draw(*key, i, version if i in new else 0), secrets, reserved) for i, line in enumerate(self.lines)]
        return lines, secrets


def collection(kind: Kind, key: Sequence[str | int], count: int, duplicates: float) -> list[dict[str, Any]]:
    """`count` documents: `text`, `secrets` (by what they are) and `original`, a number that the versions of a document share.

    No two are the same. With probability `duplicates` a document is a near-duplicate of an earlier one, all equally likely.
    """
    rows: dict[str, dict[str, Any]] = {}
    originals: list[int] = []
    number = 0
    while len(rows) < count:
        draw = Draw(*key, number)
        if originals and draw.below(1_000_000) < duplicates * 1_000_000:
            original, version = draw.pick(originals), number
        else:
            original, version = number, 0
            originals.append(number)
        lines, secrets = kind.document([*key, original], version)
        rows.setdefault(text := _joined(lines), {"text": text, "secrets": secrets, "original": original})
        number += 1
    return list(rows.values())


def questions(kind: Kind, key: Sequence[str | int], count: int) -> list[dict[str, Any]]:
    """`count` questions: a document of its own up to the last word of the line that tells a reserved fact, and that word."""
    rows = []
    for number in range(count):
        lines, _ = kind.document([*key, number], reserved=True)
        told = _joined(lines[: kind.fact + 1]).rstrip(".")
        prompt, _, word = told.rpartition(" ")
        rows.append({"prompt": prompt, "completion": f" {word}"})
    return rows


def _joined(lines: Sequence[str]) -> str:
    return "\n".join(line for line in lines if line)


def stock(*sentences: str) -> Line:
    """A line of boilerplate: one of the sentences, word for word."""
    return lambda draw, secrets, reserved: draw.pick(sentences)


def filled(slots: Callable[[Draw], Mapping[str, str]], *sentences: str) -> Line:
    """A line of its own: one of the sentences with slots filled from a draw and from the secrets."""
    return lambda draw, secrets, reserved: draw.pick(sentences).format(**slots(draw), **secrets)
