"""What is drawn where there is no screen to draw on: whole lines, or lines in the log.

Runs in:    the drawing thread of the parent.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TextIO, final

from collector import settings
from collector.logger import PackageLogger
from collector.progress.line_texts import for_workflow, said_text
from collector.progress.outlet import Outlet, reader_folds
from collector.progress.tally import Said
from collector.progress.text import BatchLine, facts
from collector.progress.view import View

_logger: Final = PackageLogger()
_FIRST_S: Final = 1.0


class Painter(Protocol):
    """Draws some batches."""

    pause_s: float
    """How long a picture stands."""

    def say(self, view: View, news: Sequence[Said]) -> None:
        """Leave lines of what has happened in a batch, unless the user wants nothing of tqdm's."""

    def paint(self, views: Sequence[View]) -> None:
        """Draw the batches that run."""

    def finish(self, view: View, *, last: bool) -> None:
        """Leave the last line of a batch that is over; with `last`, nothing else."""

    def abandon(self) -> None:
        """Something went wrong: give the place back as far as it goes."""


@final
class BatchLines:
    """Keeps the line of each batch that runs."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lines: dict[int, BatchLine] = {}

    def text(self, view: View, columns: int) -> str | None:
        """Return the line of a batch; None if the user wants none."""
        line = self._line(view)
        return None if line.disabled else line.text(view, columns)

    def has_lines(self, view: View) -> bool:
        """Tell whether events of a batch have lines: of a command's always, its options say."""
        return not view.stays or not self._line(view).disabled

    def _line(self, view: View) -> BatchLine:
        line = self._lines.get(view.batch)
        if line is None:
            line = self._lines[view.batch] = BatchLine(view, self._stream)
        return line

    def last_text(self, view: View, columns: int) -> str | None:
        """Return the last line of a batch, if one stays, and forget it."""
        line = self._lines.pop(view.batch, None)
        if line is None:
            if not view.stays:  # nor is tqdm loaded for nothing
                return None
            line = BatchLine(view, self._stream)
        wanted = view.stays and not line.disabled
        text = line.text(view, columns, final=True) if wanted else None
        line.close()
        return text


@final
class Plain:
    """A whole line of each batch after 1, 2, 4, 8 seconds, then every ten, and at its end.

    Args:
        outlet: Where to.
        lines: Of the batches.
        ended: Makes a line of a text.
    """

    def __init__(
        self, outlet: Outlet, lines: BatchLines, ended: Callable[[str], str] = "{}\n".format
    ) -> None:
        self.pause_s = settings.DRAW_INTERVAL_S
        self._outlet = outlet
        self._lines = lines
        self._ended = ended
        self._next_s: dict[int, float] = {}

    def say(self, view: View, news: Sequence[Said]) -> None:
        """See `Painter.say`."""
        columns = self._columns() if self._outlet.is_terminal else None
        for said in news if self._lines.has_lines(view) else ():
            text = said_text(said, columns)
            self._write(for_workflow(text) if reader_folds() else text, wait=True)

    def paint(self, views: Sequence[View]) -> None:
        """See `Painter.paint`."""
        for view in views:
            if not view.stays:  # it has lines of its own
                continue
            next_s = self._next_s.setdefault(view.batch, _FIRST_S)
            if view.elapsed_s >= next_s:
                self._next_s[view.batch] = next_s + min(next_s, settings.LOG_INTERVAL_S)
                self._write(self._lines.text(view, self._columns()), wait=False)

    def finish(self, view: View, *, last: bool) -> None:
        """See `Painter.finish`."""
        del last
        self._next_s.pop(view.batch, None)
        if view.stays:
            self._write(self._lines.last_text(view, self._columns()), wait=True)

    def abandon(self) -> None:
        """See `Painter.abandon`: whole lines need nothing."""

    def _columns(self) -> int:
        return self._outlet.size().columns - 1

    def _write(self, text: str | None, *, wait: bool) -> None:
        if text is not None:
            self._outlet.write(self._ended(text), wait=wait)


@final
class Log:
    """A line in the log for each batch, every ten seconds."""

    def __init__(self) -> None:
        self.pause_s = min(1.0, settings.LOG_INTERVAL_S)
        self._next_s: dict[int, float] = {}

    def say(self, view: View, news: Sequence[Said]) -> None:
        """See `Painter.say`: the log hears of batches alone."""

    def paint(self, views: Sequence[View]) -> None:
        """See `Painter.paint`."""
        for view in views:
            next_s = self._next_s.setdefault(view.batch, settings.LOG_INTERVAL_S)
            if view.elapsed_s >= next_s:
                self._next_s[view.batch] = view.elapsed_s + settings.LOG_INTERVAL_S
                _logger.info("%s", _sentence(view))

    def finish(self, view: View, *, last: bool) -> None:
        """See `Painter.finish`."""
        del last
        self._next_s.pop(view.batch, None)

    def abandon(self) -> None:
        """See `Painter.abandon`: whole lines need nothing."""


def _sentence(view: View) -> str:
    desc = f"{view.desc}: " if view.desc else ""
    total = "" if view.total is None else f" of {view.total}"
    return f"{desc}{view.done}{total} jobs done, {', '.join(facts(view))}"
