"""All that a person sees, and a program hears, of one batch that a command runs.

Runs in:    the parent: its methods in any thread; the rows are drawn in the drawing thread, keys
            are read in a thread of theirs.
Owns:       the rows and the lines of one batch, its file of events, its keys, SIGUSR1.
States:     NEW -> OPEN (`__enter__`) -> OVER (`finish`, or `__exit__` without it)
Invariants: I1  a line is written by the call that it follows from, as one write: it stands behind
                what the caller has printed before that call, and in front of what it prints next.
            I2  no lock is held that a signal handler could keep from another thread (`InOrder`).
            I3  after `__exit__` the terminal, its mode and SIGUSR1 are as before `__enter__`.
"""

import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, TextIO, final

from collector import settings
from collector.escapes import escaped
from collector.progress import screen
from collector.progress.batch import batch_numbers
from collector.progress.closing import Style, closing_texts
from collector.progress.draw import draw, screen_of
from collector.progress.ends import Ended, Level, level_of
from collector.progress.event import Happening, ProgressEvent
from collector.progress.event_file import VERSION, EventFile, Fact
from collector.progress.in_order import InOrder
from collector.progress.keys import Keys
from collector.progress.line_texts import (
    end_text,
    for_workflow,
    line_text,
    rows_of,
    running_texts,
)
from collector.progress.outlet import Outlet, reader_folds
from collector.progress.tally import Late, Said, Tally
from collector.progress.view import ShownJob, View
from collector.progress.waits import is_told_of, waits_text

if TYPE_CHECKING:
    from collector.process.scheduler.gates import Waits

_HELP: Final = "keys: t  each running job with its last line;  ?  this line"
_LEVELS: Final = {Late.SLOW: Level.SLOW, Late.QUIET: Level.ALL}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ShowOptions:
    """What is shown.

    Attributes:
        show: Which events have a line while the batch runs.
        final_show: Which have one at its end. With `NONE` nothing stands there.
        slow_s: After so many seconds a job is slow.
        quiet_s: After so many seconds without a byte it is quiet.
        events: Where each event goes as a line of JSON; None for nowhere.
        keys: Whether keys may ask for more. Say False where stdin is read for something else.
        desc: A text before the row of the batch.
        total: How many jobs there will be; None if that is not known yet (`Show.expect`).
    """

    show: Level = Level.SLOW
    final_show: Level = Level.SLOW
    slow_s: float = settings.SLOW_S
    quiet_s: float = settings.QUIET_S
    events: Path | None = None
    keys: bool = True
    desc: str = ""
    total: int | None = None


@final
class Show:
    """Shows one batch: rows on a terminal, lines, the end, events in a file.

    How a command uses it::

        with Show(ShowOptions(total=len(inputs), events=path), last_line=...) as show:
            with Collector(progress=show) as collector:      # it hears of starts and bytes
                for job in ...:
                    print_the_output_of(job)                 # to stdout and stderr, as ever
                    show.ended(Ended(job=job.id, name=..., how=..., why=..., tail=...))
            show.finish(missing="collector run --retry DIR")  # None if nothing is missing

    - A Show is a `ProgressSink`: as `progress=` of a Collector it hears when jobs start and what
      they write. Who runs jobs in another way calls `started` and `wrote`. Ends are told by `ended`
      alone, by whoever knows why a job failed and what it said: for each attempt that is followed
      by another with `again=True`, for each job once without; also for those that an earlier run
      has finished (`resumed=True`), and those that are given up (`How.INTERRUPTED`).
    - What else is to be said while it is open is said by `say`: a line above the rows.
    - `waiting("27 s for gate api: too many requests")` shows what the batch waits for, until
      `waiting("")`.
    - Who reads slowly is waited for. A command that is to end calls `hurry`, also in a handler;
      while `waits` is true its main thread hears of nothing else.
    - Ctrl-Z stops the process as ever; a command that has more to do then has a handler of SIGTSTP
      of its own, which calls `suspend()`, stops the process, and calls `resume()` when it goes on.
      Both may be called in a handler; so may nothing else.

    Args:
        options: What is shown.
        last_line: Returns the last line that a running job has printed; for `t` and SIGUSR1.
        stream: Where to; None for `sys.stderr`.

    Raises:
        OSError: The file of events cannot be opened.
    """

    def __init__(
        self,
        options: ShowOptions,
        *,
        last_line: Callable[[int], bytes] = lambda _job: b"",
        stream: TextIO | None = None,
    ) -> None:
        self.number: Final = next(batch_numbers)
        self.owner_pid: Final = os.getpid()
        self._options: Final = options
        self._last_line = last_line
        self._final_show = options.final_show
        self._tally = Tally(options.slow_s, options.quiet_s)
        self._happened = InOrder()
        self._total = options.total
        self._waiting = ""
        self.ask_waits: Callable[[], Iterable[Waits]] = tuple
        """Says, in any thread, what jobs wait for that were begun."""
        self._known_waits: list[tuple[str, str]] = []
        self._begun_s = time.monotonic()
        stream = sys.stderr if stream is None else stream
        self._outlet = None if stream is None else Outlet(stream, patience_s=None)
        self._on_screen: Final = stream is not None and screen_of(stream) is not None
        self._colour: Final = self._on_screen and self._outlet is not None and self._outlet.coloured
        self._folds: Final = reader_folds()
        self._events = None if options.events is None else EventFile(options.events, self.say)
        self._stop_drawing: Callable[[], None] = lambda: None
        self._keys = Keys(self._asked, self.suspend, self.resume)
        self._over = self._suspended = False
        self.waits = False
        """Whether the main thread waits for somebody who reads stderr or the events."""

    # -- from its beginning to its end -------------------------------------------------------------

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._begun_s = time.monotonic()
        self._event("opened", version=VERSION, total=self._total, desc=self._options.desc or None)
        self._stop_drawing = draw(self, always=True, patience_s=None)
        self._keys.open(terminal=self._options.keys and self._on_screen)
        return self

    def __exit__(self, *error: object) -> None:
        """Give the terminal back; say what has come of the batch, if `finish` has not."""
        if any(error):
            self.hurry()
            if not self._tally.has_heard:
                self.hush()
        self.finish()

    def hush(self) -> None:
        """Say nothing of the end: an error says why nothing could begin."""
        self._final_show = Level.NONE

    def hurry(self) -> None:
        """Wait no longer than `DRAW_PATIENCE_S` from now on for who reads; also in a handler."""
        for place in (self._outlet, self._events):
            if place is not None:
                place.patience_s = settings.DRAW_PATIENCE_S

    def finish(self, missing: str | None = None) -> None:
        """The batch is over: its rows go, and what is to stay is written.

        Args:
            missing: The command that runs what failed or never ran; None if nothing is missing.
        """
        if self._over:
            return
        self._over = True
        try:
            self._keys.close()
            self._stop_drawing()
            self._wait_for_counts()
            elapsed_s, tally = time.monotonic() - self._begun_s, self._tally
            level, style = self._final_show, self._style()
            for text in closing_texts(tally, self._total, elapsed_s, level, missing, style):
                self._write(text, rows=rows_of)
        finally:
            self._close_events()

    def _wait_for_counts(self) -> None:
        """Wait until another thread, which may be at it, has counted what it was told of."""
        counted = threading.Event()
        self._happened.do(counted.set)
        counted.wait(settings.DRAW_PATIENCE_S)

    def suspend(self) -> None:
        """This process is about to be stopped: leave the mode in which keys are read."""
        self._suspended = True
        self._keys.suspend()
        if self._on_screen and self._outlet is not None:
            self._outlet.write(screen.clear(), wait=False)

    def resume(self) -> None:
        """It goes on."""
        self._suspended = False
        self._keys.resume()

    # -- what happens ------------------------------------------------------------------------------

    def expect(self, total: int | None) -> None:
        """There will be so many jobs."""
        self._total = total
        self._event("total", total=total)

    def started(self, job: int, name: str, attempt: int = 1) -> None:
        """An attempt begins."""
        now_s = time.monotonic()
        self._happened.do(lambda: self._tally.started(job, name, attempt, now_s))
        self._event("started", job=job, name=name, attempt=attempt)
        if self._options.show.has(Level.ALL):
            text = line_text("START", ("", ""), (name, ""), self._columns())
            self._write(self._for_reader(text))

    def wrote(self, job: int, size_bytes: int) -> None:
        """A running attempt has written so much by now."""
        now_s = time.monotonic()
        self._happened.do(lambda: self._tally.wrote(job, size_bytes, now_s))
        self._event("progressed", job=job, bytes=size_bytes)

    def rests(self, job: int) -> None:
        """Its attempt has asked to be made later."""
        now_s = time.monotonic()
        self._happened.do(lambda: self._tally.rests(job, now_s))

    def ended(self, ended: Ended) -> None:
        """An attempt is over."""
        self._happened.do(lambda: self._tally.ended(ended))
        if self._events is not None:
            with self._may_wait():
                self._events.ended(ended)
        if self._options.show.has(level_of(ended)):
            text = end_text(ended, self._columns(), colour=self._colour)
            self._write(self._for_reader(text))

    def waiting(self, text: str) -> None:
        """The batch waits: for what, and why; with "" no longer."""
        if text != self._waiting:
            self._waiting = text
            self._event("waiting", why=self._waits_for(time.monotonic()) or None)

    def say(self, text: str) -> None:
        """Write a line, or several, above the rows."""
        for line in text.splitlines():
            self._write(self._for_reader(escaped(line)), rows=rows_of)

    # -- as a ProgressSink -------------------------------------------------------------------------

    def update(self, event: ProgressEvent) -> None:
        """See `ProgressSink.update`."""
        if event.job_id is None:
            return
        match event.happened:
            case Happening.STARTED:
                self.started(event.job_id, event.name, event.attempt)
            case Happening.PROGRESSED:
                self.wrote(event.job_id, event.bytes_written)
            case Happening.ENDED:  # its start may have been told after its end was
                self._happened.do(functools.partial(self._tally.gone, event.job_id))
            case Happening.OPENED | Happening.CLOSED:
                pass

    def close(self) -> None:
        """See `ProgressSink.close`: the Collector has ended, what is shown of it has not."""

    # -- as what is drawn --------------------------------------------------------------------------

    def view(self) -> View:
        """Return how it is now."""
        now_s = time.monotonic()
        elapsed_s = now_s - self._begun_s
        running = self._tally.running(self.number, now_s)
        return View(
            batch=self.number,
            desc=self._options.desc,
            total=self._total,
            spilled=None,
            elapsed_s=elapsed_s,
            running=running,
            waiting=self._waits_for(now_s),
            stays=False,
            hidden=self._suspended or elapsed_s < settings.DRAW_INTERVAL_S,
            **self._tally.totals(running),
        )

    def news(self) -> list[Said]:
        """Return what time alone has brought: jobs that are slow or quiet by now."""
        now_s = time.monotonic()
        self._look_at_waits(now_s)
        late = self._tally.late(now_s)
        for one in late:
            job = one.job
            seconds = round(job.elapsed_s if one.what is Late.SLOW else job.quiet_s, 3)
            self._event(one.what.lower(), job=job.id, name=job.name, seconds=seconds)
        return [one for one in late if self._options.show.has(_LEVELS[one.what])]

    def _look_at_waits(self, now_s: float) -> None:
        """Write what jobs wait for, if that is for something else than when it was last seen."""
        waits = list(filter(is_told_of, self.ask_waits()))
        known = [(one.resource, one.why) for one in waits]
        if known != self._known_waits:
            self._known_waits = known
            self._event("waiting", why=self._waits_for(now_s) or None)

    def _waits_for(self, now_s: float) -> str:
        return self._waiting or waits_text(self.ask_waits(), now_s)

    # -- what is asked for -------------------------------------------------------------------------

    def _asked(self, key: str) -> None:
        if key == "?":
            self._write(_HELP)
        if key != "t":
            return
        running = self._tally.running(self.number, time.monotonic())
        if not running:
            self._write("no job runs")
        for job in running:
            self._write_running(job)

    def _write_running(self, job: ShownJob) -> None:
        for text in running_texts(job, self._last_line(job.id), self._columns()):
            self._write(self._for_reader(text))

    # -- writing -----------------------------------------------------------------------------------

    def _style(self) -> Style:
        return Style(columns=self._columns(), colour=self._colour, folds=self._folds)

    def _columns(self) -> int | None:
        on_screen = self._outlet is not None and self._outlet.is_terminal
        return self._outlet.size().columns if on_screen and self._outlet is not None else None

    def _for_reader(self, text: str) -> str:
        return for_workflow(text) if self._folds else text

    def _write(
        self, text: str, rows: Callable[[str, int], int] = lambda _text, _columns: 1
    ) -> None:
        """Write a line (I1).

        Args:
            text: The line.
            rows: On a terminal it may take so many of them; it is cut at the end of the last one.
        """
        outlet, columns = self._outlet, self._columns()
        if outlet is None:
            return
        with self._may_wait():
            if not self._on_screen or columns is None:
                outlet.write(f"{text}\n")
            else:
                lines, taken = outlet.size().lines, rows(text, columns)
                outlet.write(screen.line_above(text, taken, screen_rows=lines, columns=columns))

    def _event(self, event: str, **facts: Fact) -> None:
        if self._events is not None:
            with self._may_wait():
                self._events.write(event, **facts)

    @contextlib.contextmanager
    def _may_wait(self) -> Iterator[None]:
        """Have a signal know that the main thread may wait for a reader."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before, self.waits = self.waits, True
        try:
            yield
        finally:
            self.waits = before

    def _close_events(self) -> None:
        tally = self._tally
        self._event(
            "closed",
            seconds=round(time.monotonic() - self._begun_s, 6),
            total=self._total,
            passed=tally.passed,
            failed=tally.failed,
            interrupted=tally.interrupted,
            resumed=tally.resumed,
            retried=tally.retried,
            bytes=tally.bytes_total,
            meters=dict(tally.meters),
        )
        if self._events is not None:
            self._events.close()
