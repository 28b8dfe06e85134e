"""What a line that takes several rows of a terminal does to the lines beside it: nothing."""

import pyte
import pytest

from collector import settings
from collector.progress import screen
from collector.progress.line_texts import rows_of

MOST_BARS = 2 + settings.ROWS_OF_JOBS


def seen(written: str, columns: int, rows: int) -> list[str]:
    """Return what a person has seen on a screen of that size, from its first row on."""
    terminal = pyte.HistoryScreen(columns, rows, history=1000)
    pyte.Stream(terminal).feed(written.replace("\n", "\r\n"))  # as the kernel does
    above = ["".join(row[x].data for x in range(columns)) for row in terminal.history.top]
    return [row.rstrip() for row in (*above, *terminal.display)]


def line_above(text: str, columns: int, rows: int) -> str:
    """As who shows a batch writes a line."""
    taken = rows_of(text, columns)
    return screen.line_above(text, taken, screen_rows=rows, columns=columns)


@pytest.mark.parametrize("bars", [0, 1, MOST_BARS])
@pytest.mark.parametrize("rows", [2, 3, 4, 12, 13, 24])
def test_lines_follow_each_other_however_many_rows_they_take(rows: int, bars: int) -> None:
    columns = 10
    drawn = ["=" * columns] * min(bars, rows - screen.TEXT_ROWS)
    for size in (1, 10, 11, 30, 110, 120, 130, 230, 250):
        written = screen.picture(drawn, rows, afresh=True) if drawn else ""
        for letter in "abc":
            written += line_above(letter * size, columns, rows)
            if drawn:
                written += screen.picture(drawn, rows, afresh=False)
        written += screen.clear() + "$ prompt"
        assert "".join(seen(written, columns, rows)).replace("=", "") == (
            "a" * size + "b" * size + "c" * size + "$ prompt"
        ), (rows, bars, size)


@pytest.mark.parametrize("rows", [3, 12, 24])
@pytest.mark.parametrize("half", ["x", "half", "just ended"])
def test_a_line_that_nobody_has_ended_stays_in_one_piece(half: str, rows: int) -> None:
    columns = 10
    for size in (1, 10, 11, 90, 250):
        found = seen(half + line_above("z" * size, columns, rows), columns, rows)
        assert half in found, (rows, size)
        assert "".join(found).count("z") == size


@pytest.mark.parametrize("columns", [2, 3, 9, 10, 21])
def test_wide_letters_take_the_rows_that_they_do(columns: int) -> None:
    in_a_row = columns // 2  # one that would begin in the last column begins the next row
    for size in range(1, 60):
        assert rows_of("\u6f22" * size, columns) == -(-size // in_a_row), size
        in_colour = "\x1b[31;1m" + "\u6f22" * size + "\x1b[0m"
        assert rows_of(in_colour, columns) == -(-size // in_a_row), size
    assert rows_of("ab\u6f22", 2) == 2
    assert rows_of("\xe9" * 3 * columns, columns) == 3
    assert rows_of("", columns) == 1
