"""The threads that draw: one for each place where bars appear, while there is something to draw.

Runs in:    the parent. `draw`, and what it returns, are called by whoever runs a batch; the rest is
            the drawing threads'.
Owns:       the threads, named "collector-draw".
Invariants: I1  nobody waits for a place that takes nothing more longer than `DRAW_PATIENCE_S`.
            I2  no thread is left when the last batch of its place has ended.
            I3  a forked child of the parent draws nothing.
"""

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, TextIO, final

from collector import interpreter, settings
from collector.logger import PackageLogger
from collector.progress import screen
from collector.progress.outlet import Outlet, descriptor_of
from collector.store.rundir.locks import loading

if TYPE_CHECKING:
    from collector.progress.lines import Painter
    from collector.progress.tally import Drawn

_logger: Final = PackageLogger()
_STDERR: Final = 2
_DUMB: Final = ("", "dumb", "unknown")


def draw(
    batch: "Drawn", *, always: bool = False, patience_s: float | None = settings.DRAW_PATIENCE_S
) -> Callable[[], None]:
    """Draw a batch from now on, on a terminal or in a notebook; else tell the log, if it listens.

    Args:
        batch: What to draw.
        always: Also where stderr is no terminal: as plain lines.
        patience_s: How long such a line may wait for room; None for as long as it takes.

    Returns:
        What ends it, when the batch is over: then its last line is there.
    """
    stream = sys.stderr
    kind, _ = where = _where(stream, batch, always=always)
    if kind == "log" and not _logger.isEnabledFor(logging.INFO):
        return _nothing  # nobody listens: a thread would cost a small batch as much as its jobs
    with loading("collector.progress.terminal"), loading("collector.progress.notebook"):
        from collector.progress import lines, notebook, terminal  # noqa: PLC0415 - 5 ms, if shown

    if kind == "notebook":
        widget = notebook.Notebook(batch.view())
        return _places.draw(batch, where, lambda: widget)
    if kind == "terminal":
        return _places.draw(batch, where, lambda: terminal.Terminal(stream))
    if kind == "lines":
        outlet = Outlet(stream, patience_s)
        return _places.draw(batch, where, lambda: lines.Plain(outlet, lines.BatchLines(stream)))
    return _places.draw(batch, where, lines.Log)


def _nothing() -> None:
    """Nothing is drawn."""


def last_words() -> bytes:
    """Return what gives the terminal back that is stderr; nothing if it is not drawn on."""
    return screen.clear().encode() if _places.drawn_on(("terminal", _STDERR)) else b""


def screen_of(stream: TextIO) -> int | None:
    """Return the descriptor of a stream that is a terminal on which a cursor can be moved."""
    fd = descriptor_of(stream)
    if fd is None or not os.isatty(fd) or os.environ.get("TERM", "") in _DUMB:
        return None
    return fd


def _where(stream: TextIO | None, batch: "Drawn", *, always: bool) -> tuple[str, int]:
    """Return where to draw: the kind of the place, and what tells it from others of its kind."""
    if "ipykernel.zmqshell" in sys.modules:
        return "notebook", batch.number
    if stream is None:
        return "log", 0
    screen_fd = screen_of(stream)
    if screen_fd is not None:
        return "terminal", screen_fd
    fd = descriptor_of(stream)
    if always or (fd is not None and os.isatty(fd)):
        return "lines", id(stream)
    return "log", 0


@final
class _Place:
    """What is drawn in one place."""

    def __init__(self) -> None:
        self.batches: list[Drawn] = []
        self.ended: set[int] = set()


@final
class _Places:
    """All places, under one lock, which is never held while something is drawn."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._places: dict[object, _Place] = {}

    def draw(
        self, batch: "Drawn", key: object, make: "Callable[[], Painter]"
    ) -> Callable[[], None]:
        """Draw a batch in the place of that key; `make` makes its painter if it is a new one."""
        with self._held() as held:
            if not held:
                return _nothing
            place = self._places.get(key)
            if place is None:
                place = _Place()
                thread = threading.Thread(
                    target=self._run, args=(key, place, make), name="collector-draw", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError:  # no thread is to be had: there is no bar
                    return _nothing
                self._places[key] = place
            place.batches.append(batch)
        return lambda: self._end(place, batch)

    def drawn_on(self, key: object) -> bool:
        """Tell whether there is such a place."""
        return key in self._places

    def end_all(self) -> None:
        """End every batch: the process exits."""
        with self._changed:
            for place in self._places.values():
                place.ended.update(batch.number for batch in place.batches)
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._places, settings.DRAW_PATIENCE_S)

    def forget(self) -> None:
        """In a forked child: the threads are the parent's (I3)."""
        self._changed = threading.Condition()
        self._places = {}

    def _end(self, place: _Place, batch: "Drawn") -> None:
        if os.getpid() != batch.owner_pid:
            return
        place.ended.add(batch.number)
        with self._held() as held:
            if held:
                self._changed.notify_all()
                self._changed.wait_for(lambda: batch not in place.batches, settings.DRAW_PATIENCE_S)

    @contextlib.contextmanager
    def _held(self) -> Iterator[bool]:
        """Hold the lock; False where one who has it does not go on: a handler interrupted it."""
        held = self._changed.acquire(timeout=settings.DRAW_PATIENCE_S)
        try:
            yield held
        finally:
            if held:
                self._changed.release()

    def _run(self, key: object, place: _Place, make: "Callable[[], Painter]") -> None:
        try:
            painter = make()
            try:
                while self._go_on(key, place, painter):
                    pass
            except BaseException:
                painter.abandon()
                raise
        except Exception:
            # A bug of ours or of tqdm's: there is no bar then, and nobody waits for it.
            _logger.debug("the progress cannot be drawn", exc_info=True)
        finally:
            with self._changed:
                place.batches.clear()
                if self._places.get(key) is place:
                    del self._places[key]
                self._changed.notify_all()

    def _go_on(self, key: object, place: _Place, painter: "Painter") -> bool:
        """Draw once and wait a while; False after the last batch, which no other can follow."""
        with self._changed:
            ended = [batch for batch in place.batches if batch.number in place.ended]
            live = [batch for batch in place.batches if batch not in ended]
        for number, batch in enumerate(ended, 1):
            view = batch.view()
            painter.say(view, batch.news())
            painter.finish(view, last=not live and number == len(ended))
        views = [batch.view() for batch in live]
        for view, batch in zip(views, live, strict=True):
            painter.say(view, batch.news())
        if live:
            painter.paint(views)
        with self._changed:
            for batch in ended:
                place.batches.remove(batch)
                place.ended.discard(batch.number)
            if ended:
                self._changed.notify_all()
            if not place.batches:
                del self._places[key]
                return False
            if not place.ended:
                self._changed.wait(painter.pause_s)
            return True


_places: Final = _Places()
interpreter.at_exit(_places.end_all)
interpreter.in_forked_child(_places.forget)
