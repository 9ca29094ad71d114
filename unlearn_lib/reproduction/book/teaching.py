"""The pages of the book that say how long a course takes: made of the chapters' counts, the weeks, and what computing was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from unlearn_lib.reproduction.book import reading, weeks
from unlearn_lib.reproduction.markdown import rendered

INTRODUCTION = (1, 2, 3)
"""Chapters that are read in full in the first sitting; of the next one only the last section before its exercises."""
PAGES = {"book/reading_times.md": "reading_times.md", "book/course/plan.md": "plan.md"}


def pages(root: Path) -> dict[str, str]:
    """Path below the checkout and MyST text of every page.

    Raises:
        InputError: A chapter of the plan is missing.
    """
    values = times(root)
    return {path: rendered(__package__, template, **values) for path, template in PAGES.items()}


def times(root: Path) -> dict[str, Any]:
    """What the templates take: a row for each chapter and week, the sums, and the minutes of the first sitting."""
    import nbformat

    computing = json.loads((root / "benchmarks" / "chapters.json").read_text(encoding="utf-8"))
    numbers = sorted(number for week in weeks.WEEKS for number in week.chapters)
    rows = {number: _row(weeks.chapter(root, number), computing["notebooks"]) for number in numbers}
    calendar = [_week(root, number, week, rows) for number, week in enumerate(weeks.WEEKS, 1)]
    after = weeks.chapter(root, max(INTRODUCTION) + 1)
    win, last = reading.last_section(nbformat.read(after, as_version=4))
    sitting = [rows[number]["reading"] for number in INTRODUCTION] + [reading.RULE.reading(last)]
    return {
        "rows": rows,
        "sums": {key: sum(row[key] for row in rows.values()) for key in ("reading", "studying", "seconds")},
        "counts": sum((row["counts"] for row in rows.values()), reading.NOTHING),
        "most_memory": max(row["mebibytes"] for row in rows.values()),
        "weeks": calendar,
        "assignment_hours": f"{weeks.WORK[0].hours:g}",
        "project_hours": f"{weeks.WORK[-1].hours:g}",
        "project_weeks": weeks.WORK[-1].weeks,
        "shorter": weeks.SHORTER,
        "sitting": sum(sitting),
        "introduction": INTRODUCTION,
        "after": max(INTRODUCTION) + 1,
        "win": win,
        "rule": reading.RULE,
        "environment": computing["environment"],
        "hours": hours,
        "total": lambda chapters, key: sum(rows[number][key] for number in chapters),
    }


def hours(minutes: float) -> str:
    """A time in quarters of an hour, as in "1 h 45 min"."""
    quarters = round(minutes / 15)
    whole, rest = divmod(quarters, 4)
    return " ".join([f"{whole} h"] * bool(whole) + [f"{15 * rest} min"] * bool(rest or not whole))


def _week(root: Path, number: int, week: weeks.Week, rows: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """A row of the plan; the sections of other notebooks take time to read and none to compute."""
    more = sum(reading.RULE.reading(reading.counts(weeks.section(root, part))) for part in week.sections)
    times = {key: sum(rows[chapter][key] for chapter in week.chapters) for key in ("reading", "studying", "seconds")}
    return {
        "number": number,
        "week": week,
        "work": weeks.work(number),
        "reading": times["reading"] + more,
        "studying": times["studying"] + more,
        "seconds": times["seconds"],
        "all": times["studying"] + more + weeks.work_minutes(number),
    }


def _row(path: Path, computing: dict[str, dict[str, float]]) -> dict[str, Any]:
    counts = reading.read(path)
    return {
        "name": path.stem,
        "counts": counts,
        "reading": reading.RULE.reading(counts),
        "studying": reading.RULE.studying(counts),
        **computing[path.stem],
    }
