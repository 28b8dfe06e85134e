"""The table that people read, in a terminal or in Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HEADINGS = ("case", "unit", "collector", "others", "limit", "ratio", "goal", "met")


def print_table(rows: Iterable[Mapping[str, Any]]) -> None:
    """Print rows as text in columns."""
    lines = [HEADINGS, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def markdown(rows: Iterable[Mapping[str, Any]], columns: int = len(HEADINGS)) -> str:
    """Return rows as a table of Markdown, with so many of the columns."""
    whole: list[Sequence[str]] = [HEADINGS, ["---"] * len(HEADINGS), *(cells(r) for r in rows)]
    lines = [line[:columns] for line in whole]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the words of one row."""
    met = {True: "yes", False: "NO", None: "-"}[row["met"]]
    others = ", ".join(f"{name} {figure(value)}" for name, value in row["peers"].items())
    return (
        row["case"],
        row["unit"],
        figure(row["ours"]),
        others or "-",
        figure(row["limit"]),
        figure(row["ratio"]),
        figure(row["goal"]),
        met,
    )


def figure(value: float | None) -> str:
    """Return three digits of a figure."""
    if value is None:
        return "-"
    if abs(value) >= 1000:  # noqa: PLR2004 - a whole number has digits enough
        return f"{value:,.0f}"
    return f"{value:.3g}"
