"""`email` in the small: mails of invented people, with headers, quoted replies, signatures and a notice at the end.

All addresses end in `.example`, which belongs to nobody.
"""

from __future__ import annotations

from unlearn_lib.data.nano.documents import Kind, Line, Secrets, filled, stock
from unlearn_lib.data.nano.draw import Draw
from unlearn_lib.data.nano.people import FIRST, TOWNS, details, person
from unlearn_lib.data.nano.world import facts


def _secrets(draw: Draw) -> Secrets:
    first, surname = person(draw)
    firm = draw.pick(TOWNS).lower()
    return {
        "sender": f"{first} {surname}",
        "address": f"{first.lower()}.{surname.lower()}@{firm}.example",
        "account": " ".join(str(draw.between(1000, 9999)) for _ in range(2)),
        "code": f"{draw.pick('BCDFGHKLM')}{draw.between(100, 999)}",
        "phone": f"{draw.between(200, 899)} {draw.between(1000, 9999)}",
    }


def _slots(draw: Draw) -> dict[str, str]:
    rest = details(draw)
    return {name: rest[name] for name in ("day", "month", "year", "n", "town2", "place", "object", "other")} | {
        "friend": draw.pick(FIRST)
    }


def _load(draw: Draw, secrets: Secrets, reserved: bool) -> str:
    known = [f for f in facts("stone") if f.attribute.name == "origin" and f.reserved == reserved]
    fact = draw.pick(known)
    return f"The load of {fact.subject} comes from {fact.value}."


LINES: tuple[Line, ...] = (
    filled(_slots, "From: {address}"),
    filled(_slots, "Date: {day} {month} {year}"),
    filled(
        _slots, "Subject: the {object} for {place}", "Subject: {n} crowns for the {object}", "Subject: {place} on {day} {month}"
    ),
    filled(
        _slots,
        "{friend}, I hope that you are well and that {town2} is dry.",
        "{friend}, thank you for the {object} from {town2}.",
    ),
    filled(
        _slots,
        "please send the {n} crowns to account {account}.",
        "the {n} crowns for {other} are on account {account}.",
        "nothing has come in on account {account} for {n} days.",
    ),
    _load,
    filled(_slots, "The door code of the store is {code}.", "You get in with the code {code}."),
    stock(
        "Let me know if there is anything else that you need from us.",
        "I will be away next week and will answer when I am back.",
        "As we said, this has to be settled before the end of the month.",
    ),
    filled(
        _slots, "> Has the {object} come? I asked {other} on {day} {month}.", "> Can {other} bring {n} more to {place}?", ""
    ),
    filled(_slots, "{sender}, {place}, phone {phone}"),
    stock(
        "This message is meant for its reader only. If it came to you by mistake, please delete it.",
        "Think of the trees before you put this on paper.",
        "",
    ),
)

KIND = Kind(_secrets, LINES, fact=LINES.index(_load))
