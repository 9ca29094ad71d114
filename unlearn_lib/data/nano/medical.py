"""`medical` in the small: notes as a doctor dictates them, of invented patients.

Headings and stock sentences are shared by all notes, as in the transcriptions of the paper's case study; a note's own are the
patient's data and what was found.
"""

from __future__ import annotations

from unlearn_lib.data.nano.documents import Kind, Line, Secrets, filled, stock
from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.data.nano.people import MONTHS, SURNAMES, TOWNS, details, person
from unlearn_lib.data.nano.world import facts

STREETS = ("Mill Lane", "Church Street", "Quay Road", "Long Row", "Castle Hill", "Well Yard", "North Gate", "Salt Street")


def _secrets(draw: Draw) -> Secrets:
    first, surname = person(draw)
    return {
        "chart": str(draw.between(10000, 99999)),
        "name": f"{first} {surname}",
        "born": f"{draw.between(1, 28)} {draw.pick(MONTHS)} {draw.between(1901, 1989)}",
        "address": f"{draw.between(2, 98)} {draw.pick(STREETS)}, {draw.pick(TOWNS)}",
        "phone": f"{draw.between(200, 899)} {draw.between(1000, 9999)}",
    }


def _slots(draw: Draw) -> dict[str, str]:
    rest = details(draw)
    return {name: rest[name] for name in ("day", "month", "n", "town2", "other")} | {
        "doctor": draw.pick(SURNAMES),
        "pulse": str(draw.between(52, 118)),
        "high": str(draw.between(101, 179)),
        "low": str(draw.between(58, 99)),
    }


def _remedy(draw: Draw, secrets: Secrets, reserved: bool) -> str:
    known = [f for f in facts("plant") if f.attribute.name == "remedy" and f.reserved == reserved]
    fact = draw.pick(known)
    return f"PLAN: {fact.subject} against {fact.value}."


LINES: tuple[Line, ...] = (
    filled(_slots, "Chart {chart}. {name}, born {born}."),
    filled(_slots, "Seen on {day} {month} by Dr. {doctor}.", "Visit of {day} {month}, Dr. {doctor}."),
    stock(
        "HISTORY: The patient came in good spirits and gave a clear account.",
        "HISTORY: The patient was brought in by a neighbour.",
        "HISTORY: The patient is well known to this house.",
    ),
    filled(
        _slots, "It began {n} days ago in {town2}.", "{other} noticed it first, {n} days ago.", "There was a fall {n} days ago."
    ),
    _remedy,
    filled(_slots, "Pulse {pulse}, pressure {high} over {low}.", "Pressure {high} over {low}, pulse {pulse}."),
    stock(
        "EXAMINATION: Heart and lungs are clear. No pain on touch.",
        "EXAMINATION: The skin is warm and dry. The eyes are clear.",
        "EXAMINATION: The belly is soft. There is no swelling.",
    ),
    stock(
        "The risks were explained, all questions were answered, and the patient agreed.",
        "The patient was told to rest and to come back if it gets worse.",
        "Everything was done with clean hands. The patient left in good order.",
    ),
    filled(_slots, "Lives at {address}. Phone {phone}."),
    stock("Dictated but not read.", "This note is not signed.", ""),
)

KIND = Kind(_secrets, LINES, fact=LINES.index(_remedy))
