"""Bars in the last rows of a terminal: one for each batch, and one for each job that has room.

Runs in:    the drawing thread of the parent.
Owns:       the last rows of the terminal while batches run.
States:     AWAY -> DRAWN (`paint`) -> AWAY (`finish` of the last batch, or a screen too small)
Invariants: I1  a job keeps its row as long as it runs.
            I2  AWAY means that the whole screen is everybody's again.
"""

import time
from collections.abc import Sequence
from typing import Final, TextIO, final

from collector import settings
from collector.progress import screen
from collector.progress.batch import RunningJob, View
from collector.progress.lines import BatchLines, Plain
from collector.progress.outlet import Outlet
from collector.progress.text import job_line

_AFRESH_S: Final = 1.0
"""So often a picture trusts nothing that should be on the screen: half of `SUSPENDED_S`."""


@final
class Terminal:
    """Draws on a terminal; whole lines now and then while its size is not known."""

    def __init__(self, stream: TextIO) -> None:
        self.pause_s = settings.DRAW_INTERVAL_S
        self._outlet = Outlet(stream, patience_s=None, keeps=True)
        self._lines = BatchLines(stream)
        self._plain = Plain(self._outlet, self._lines, screen.line_above)
        self._seats: list[tuple[int, int] | None] = []
        self._drawn: tuple[int, tuple[int, int]] | None = None
        self._afresh_s = 0.0

    def paint(self, views: Sequence[View]) -> None:
        """See `Painter.paint`."""
        size = self._outlet.size()
        room = size.lines - screen.TEXT_ROWS
        if room < 1:
            self.abandon()
            self._plain.paint(views)
            return
        lines = self._picture(views, size.columns, room)
        if not lines:
            return
        drawn, now_s = (len(lines), size), time.monotonic()
        afresh = drawn != self._drawn or now_s >= self._afresh_s
        if self._outlet.write(screen.picture(lines, size.lines, afresh=afresh), wait=False):
            self._drawn = drawn
            self._afresh_s = now_s + _AFRESH_S if afresh else self._afresh_s

    def finish(self, view: View, *, last: bool) -> None:
        """See `Painter.finish`."""
        text = self._lines.last_text(view, self._outlet.size().columns)
        before = ""
        if last and self._drawn is not None:
            before, self._drawn = screen.clear(), None
        if text is not None:
            self._outlet.write(before + screen.line_above(text))

    def abandon(self) -> None:
        """See `Painter.abandon`; also the way out when the screen becomes too small."""
        if self._drawn is not None:
            self._outlet.write(screen.clear())
            self._drawn = None

    def _picture(self, views: Sequence[View], columns: int, room: int) -> list[str]:
        texts = [self._lines.text(view, columns) for view in views]
        lines = [text for text in texts if text is not None]
        if not lines:
            return []
        running = {(job.batch, job.id): job for view in views for job in view.running}
        self._seat(running, room - len(lines))
        lines += [job_line(running[key], columns) if key else "" for key in self._seats]
        return lines[:room]

    def _seat(self, running: dict[tuple[int, int], RunningJob], room: int) -> None:
        """Give the jobs that run a row each, as far as there are rows (I1)."""
        seats = [key if key in running else None for key in self._seats[: max(0, room)]]
        waiting = [key for key in running if key not in seats]
        for number, key in enumerate(seats):
            if key is None and waiting:
                seats[number] = waiting.pop(0)
        self._seats = seats + waiting[: max(0, room - len(seats))]  # type: ignore[operator]
