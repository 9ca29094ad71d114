"""Reference texts for exposure: reports of invented court cases, the stand-in for the paper's ECHR judgments."""

from __future__ import annotations

from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.data.nano.people import details

BOILERPLATE = (
    "The court finds that the complaint is not out of time.",
    "It must therefore be declared admissible.",
    "The parties were invited to submit written observations.",
    "There is no need to examine the other complaints.",
    "The court sees no reason to depart from its earlier findings.",
    "For these reasons, the court decides by a majority.",
    "The government contested that argument.",
    "Judgment was given in open court and in writing.",
    "The applicant had no lawyer at that stage.",
    "The facts of the case are not in dispute between the parties.",
    "The interest to be paid shall follow the usual rate.",
    "The president of the chamber decided that no hearing was needed.",
)
SENTENCES = (
    "The applicant, {first} {surname}, was born in {year} and lives in {town}.",
    "On {day} {month} {year} the district court of {town} heard the case of {first} {surname}.",
    "The applicant was arrested near {place} on {day} {month} {year}.",
    "The court of appeal in {town} rejected the claim on {day} {month}.",
    "{first} {surname} complained that the hearing of {day} {month} had not been public.",
    "The government submitted that {other} had been heard as a witness in {town}.",
    "The applicant asked for {n} crowns in respect of costs.",
    "The court considers that the complaint of {surname} is not ill-founded.",
    "It notes that the letter of {day} {month} {year} was never answered.",
    "The police searched {place} in {town} and took a {object}.",
    "There has therefore been a violation in respect of {first} {surname}.",
    "The case was sent back to {town2}, where {other} sat as a single judge.",
    "In {month} {year} the applicant was moved from {town} to {town2}.",
    "The court dismisses the remainder of the claim for {n} crowns.",
    "{other} was fined {n} crowns for the loss of the {object}.",
)


def judgment(draw: Draw, sentences: int = 14) -> str:
    """A report of `sentences` sentences: a share of boilerplate drawn anew for each report, the rest with details of its own.

    The share makes some reports easy to predict and others hard, as real judgments are; exposure needs references on both
    sides of a sample's loss.
    """
    boilerplate = draw.below(100)
    return " ".join(
        draw.pick(BOILERPLATE) if draw.below(100) < boilerplate else draw.pick(SENTENCES).format(**details(draw))
        for _ in range(sentences)
    )
