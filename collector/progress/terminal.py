"""Bars in the last rows of a terminal: one for each batch, and one for each job that has room.

Runs in:    the drawing thread of the parent.
Owns:       the last rows of the terminal while batches run, and until then a descriptor of it: that
            is closed as soon as nothing draws any more, so no cycle leads back to who draws.
States:     AWAY -> DRAWN (`paint`) -> AWAY (`finish` of the last batch, or a screen too small)
Invariants: I1  the jobs that have run for longest have a row, at most `ROWS_OF_JOBS` of them.
            I2  AWAY means that the whole screen is everybody's again.
"""

import functools
import time
from collections.abc import Sequence
from typing import Final, TextIO, final

from collector import settings
from collector.progress import screen
from collector.progress.line_texts import said_text
from collector.progress.lines import BatchLines, Plain
from collector.progress.outlet import Outlet
from collector.progress.tally import Said
from collector.progress.text import job_line, waiting_line
from collector.progress.view import View

_AFRESH_S: Final = 1.0
"""So often a picture trusts nothing that should be on the screen: half of `SUSPENDED_S`."""


@final
class Terminal:
    """Draws on a terminal; whole lines now and then while its size is not known."""

    def __init__(self, stream: TextIO) -> None:
        self.pause_s = settings.DRAW_INTERVAL_S
        self._outlet = Outlet(stream, patience_s=None, keeps=True)
        self._lines = BatchLines(stream)
        line_above = functools.partial(_line_above, self._outlet)
        self._plain = Plain(self._outlet, self._lines, line_above)
        self._most = 0
        self._drawn: tuple[int, tuple[int, int]] | None = None
        self._afresh_s = 0.0

    def say(self, view: View, news: Sequence[Said]) -> None:
        """See `Painter.say`."""
        for said in news if self._lines.has_lines(view) else ():
            text = said_text(said, self._outlet.size().columns, colour=self._outlet.coloured)
            self._outlet.write(_line_above(self._outlet, text))

    def paint(self, views: Sequence[View]) -> None:
        """See `Painter.paint`."""
        views = [view for view in views if not view.hidden]
        if not views:
            self.abandon()
            return
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
        above = "" if text is None else _line_above(self._outlet, text)
        if before or above:
            self._outlet.write(before + above)

    def abandon(self) -> None:
        """See `Painter.abandon`; also the way out when the screen becomes too small."""
        if self._drawn is not None:
            self._outlet.write(screen.clear())
            self._drawn = None

    def _picture(self, views: Sequence[View], columns: int, room: int) -> list[str]:
        lines: list[str] = []
        for view in views:
            text = self._lines.text(view, columns)
            if text is not None:
                lines += [text, waiting_line(view, columns)] if view.waiting else [text]
        if not lines:
            return []
        running = sorted(
            (job for view in views for job in view.running), key=lambda j: -j.elapsed_s
        )
        lines += [job_line(job, columns) for job in running[: settings.ROWS_OF_JOBS]]
        self._most = max(self._most, len(lines))
        return (lines + [""] * (self._most - len(lines)))[:room]


def _line_above(outlet: Outlet, text: str) -> str:
    return screen.line_above(text, screen_rows=outlet.size().lines)
