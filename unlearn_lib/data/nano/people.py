"""Invented people and places, and the everyday details that make every record different from every other."""

from __future__ import annotations

from unlearn_lib.data.nano.draw import Draw

FIRST = tuple(
    "Ana Bram Cleo Dario Edda Falk Gita Hugo Ines Jory Kaya Lorn Mira Nils Olga Petra Quin Rosa Sven Tilda Ugo Vera "
    "Wim Xenia Yara Zeno Alba Bodo Cora Dina Elio Frida Gus Hanna Igor Jana Karl Lena Moritz Nora Otto Pia Rudi Selma "
    "Theo Ulla Vito Wanda".split()
)
SURNAMES = tuple(
    "Ashdown Barrow Cobbold Dunmore Eastlake Fenwick Garland Harrow Inchbald Jessop Kettle Lockhart Marlow Northam "
    "Orvel Penhale Quarrie Redfern Sandoval Thackray Underhill Vexley Winslow Yardley Zeller Aldous Birchall Colliver "
    "Dampier Ellery Furnell Goswick Hobday Ivory Jakeman Kelloway Lambert Mowbray Nettles Oakes Pomfret Rudge Saltash "
    "Tilney Upjohn Vane Wragg Yelland".split()
)
TOWNS = tuple(
    "Ambry Belcot Corran Dunsey Elmire Farlow Gorse Hallin Istrel Jarrow Keld Lusby Merrin Nantle Oxley Pellow Rathby "
    "Selwick Tarn Ulmer Varley Wexham Yarm Zennor".split()
)
PLACES = (
    "the mill", "the old bridge", "the harbour", "the market", "the chapel", "the tower", "the bakery", "the orchard", "the station",
    "the stables", "the library", "the well", "the theatre", "the brewery", "the town gate", "the lighthouse",
)  # fmt: skip
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December",
)  # fmt: skip
OBJECTS = (
    "lantern", "basket", "letter", "hammer", "blanket", "kettle", "violin", "mirror", "ladder", "candle", "bottle", "drum", "map",
    "clock", "rope", "coat", "key", "saddle", "parasol", "whistle", "bucket", "ring", "shovel", "flute",
)  # fmt: skip
WEATHER = (
    "It rained all day", "The wind was cold", "The sun was low", "Snow lay on the roofs", "There was thick fog", "It was very hot",
    "A storm was near", "The sky was clear",
)  # fmt: skip


def person(draw: Draw) -> tuple[str, str]:
    """(first name, surname)."""
    return draw.pick(FIRST), draw.pick(SURNAMES)


def details(draw: Draw) -> dict[str, str]:
    """Random everyday details by slot name; about 35 bits of them end up in a typical record."""
    first, surname = person(draw)
    other, _ = person(draw)
    return {
        "first": first,
        "surname": surname,
        "other": other,
        "town": draw.pick(TOWNS),
        "town2": draw.pick(TOWNS),
        "place": draw.pick(PLACES),
        "month": draw.pick(MONTHS),
        "day": str(draw.between(1, 28)),
        "year": str(draw.between(1901, 1989)),
        "n": str(draw.between(3, 97)),
        "object": draw.pick(OBJECTS),
        "weather": draw.pick(WEATHER),
    }
