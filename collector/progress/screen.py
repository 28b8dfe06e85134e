"""What is sent to a terminal so that bars stand in its last rows and all else scrolls above them.

The rows above the bars are made the terminal's scrolling region, as `apt` does. Whatever a job, a
subprocess, C code or a handler of `logging` writes lands there, at the cursor, which is not ours;
and each picture is one write, which the kernel does not mix with others. So lines cannot tear, and
nobody's output has to be redirected (docs/decisions/0008-bars.md has what was rejected).

Runs in:    anywhere: texts in, text out.
Invariants: I1  a picture leaves the cursor where it was, or as many rows higher as the screen had
                to scroll to have room for the bars.
            I2  a picture sets the region itself: whoever has reset it meanwhile (a resize, a full
                screen program in a stopped shell job) has done no lasting harm.
"""

from collections.abc import Sequence
from typing import Final

from collector import settings

_SAVE: Final = "\x1b7"
_RESTORE: Final = "\x1b8"
_WHOLE_SCREEN: Final = "\x1b[r"
_ERASE_BELOW: Final = f"{_SAVE}\x1b[E\x1b[J{_RESTORE}"
_DOWN: Final = "\x1bD"
_NO_WRAP: Final = "\x1b[?7l"
_WRAP: Final = "\x1b[?7h"

_MOST_BARS: Final = 2 + settings.ROWS_OF_JOBS
"""Of one batch: its own, what it waits for, its jobs."""

TEXT_ROWS: Final = 2
"""Rows that are left for everything else."""


def picture(lines: Sequence[str], rows: int, *, afresh: bool) -> str:
    """Return what draws the lines in the last of so many rows.

    Args:
        lines: At least one, and at most `rows - TEXT_ROWS`.
        rows: Of the terminal.
        afresh: Also make room, and erase what stands below the cursor: at the beginning, after a
            resize, with more lines than before.
    """
    top = rows - len(lines)
    parts = [clear(len(lines))] if afresh else []
    parts += [_SAVE, f"\x1b[1;{top}r", _NO_WRAP]
    parts += [f"\x1b[{top + number};1H{line}\x1b[K" for number, line in enumerate(lines, 1)]
    parts += [_WRAP, _RESTORE]
    return "".join(parts)


def clear(room: int = 1) -> str:
    """Return what gives the whole screen back, without bars, and so many rows below the cursor."""
    whole = f"{_SAVE}{_WHOLE_SCREEN}{_RESTORE}"
    return f"{whole}{_DOWN * room}\x1b[{room}A{_ERASE_BELOW}"


def line_above(text: str, rows: int = 1, *, screen_rows: int = 0, columns: int = 0) -> str:
    """Return what puts a line above the one that the cursor is in, wherever in it that is.

    So a bar of the user's, or a line that somebody has not ended, stays in one piece. It must have
    room above the bars, as many as there may be; on a screen of one row nothing has. One that has
    none is a plain line, below the one that the cursor is in.

    Args:
        text: If it has but one row, it is cut at the end of that.
        rows: As many as it takes.
        screen_rows: Those of the screen; 0 where they are not known.
        columns: Those of the screen; 0 where they do not matter.
    """
    if screen_rows == 1:
        return f"{text}\n"
    if screen_rows and rows >= max(TEXT_ROWS, screen_rows - _MOST_BARS):
        # Blanks as wide as the screen: the cursor is in the same row then if it was at its
        # beginning, else in the next one.
        return f"{' ' * columns}\r{text}\n"
    room, wraps = f"{_DOWN * rows}\x1b[{rows}A", "" if rows > 1 else _NO_WRAP
    return f"{room}{_SAVE}\x1b[{rows}L\r{wraps}{text}{_RESTORE}{_WRAP}\x1b[{rows}B"
