"""Calls the user's code with news of jobs, in a thread that nobody waits for.

Runs in:    the parent. `Reporter` takes calls from any thread; they are made in its own.
Owns:       that thread, from the first call to `finish`.
Invariants: I1  handing over a call never blocks and never raises, whatever the user's code does.
            I2  of calls that replace each other only the latest is made, each key's at most every
                `PROGRESS_INTERVAL_S`; what must be said is said, in order, after what came before.
            I3  code of the user's that does not return costs its own news alone: what is kept for
                it is bounded, and nobody waits for it longer than `REPORT_PATIENCE_S`.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

from collector import settings

_logger: Final = logging.getLogger("collector")


@final
@dataclass(frozen=True, slots=True)
class Call:
    """A call to be made.

    Attributes:
        source: Whose code it is: the callback, or the object.
        about: What it is about, within that: the number of a job.
        act: Makes the call.
    """

    source: object
    about: int
    act: Callable[[], object]

    @property
    def key(self) -> tuple[int, int]:
        """Calls of one key replace each other."""
        return id(self.source), self.about


@final
class Reporter:
    """Makes calls in a thread of its own."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._must: deque[Call] = deque()
        self._latest: dict[tuple[int, int], Call] = {}
        self._next_s: dict[tuple[int, int], float] = {}
        self._failing: set[int] = set()
        self._thread: threading.Thread | None = None
        self._since_s: float | None = None
        self._dropped = 0
        self._finishing = False
        self._owner_pid: Final = os.getpid()

    def latest(self, call: Call) -> None:
        """Make this call soon, unless another of its key comes before that."""
        with self._changed:
            if self._open():
                self._latest[call.key] = call
                self._wake()

    def must(self, call: Call, *, last: bool = False) -> None:
        """Make this call, after those that came before; with `last`, no more of its key follow."""
        with self._changed:
            if not self._open():
                return
            if last:
                self._latest.pop(call.key, None)
                self._next_s.pop(call.key, None)
            if len(self._must) >= settings.REPORT_BACKLOG and self._stuck_s() > 0:
                self._dropped += 1
                return
            self._must.append(call)
            self._wake()

    def finish(self) -> None:
        """Take no more calls; the thread ends when those that it has are made."""
        with self._changed:
            self._finishing = True
            self._changed.notify_all()

    def wait(self) -> None:
        """After `finish`, wait for the end, unless a call does not return."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        if os.getpid() != self._owner_pid:
            return
        with self._changed:
            if not self._finishing:  # in a callback of the Collector's own: its end waits for us
                return
            while self._thread is not None and self._stuck_s() <= 0:
                self._changed.wait(-self._stuck_s())
            stuck = self._thread is not None
            dropped = self._dropped + len(self._must)
            self._must.clear()
            self._latest.clear()
            self._thread = None
        if stuck:
            _logger.warning(
                "a progress callback has not returned for %g s: it is left behind, and %d more "
                "calls are not made",
                settings.REPORT_PATIENCE_S,
                dropped,
            )
        else:
            thread.join()

    def _open(self) -> bool:
        return not self._finishing and os.getpid() == self._owner_pid

    def _stuck_s(self) -> float:
        """For how long the call that is being made has been too long; less than 0 if it is not."""
        since_s = time.monotonic() if self._since_s is None else self._since_s
        return time.monotonic() - since_s - settings.REPORT_PATIENCE_S

    def _wake(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="collector-report", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread is to be had: this news is lost, the job is not
                self._must.clear()
                self._latest.clear()
                return
            self._thread = thread
        self._changed.notify_all()

    def _run(self) -> None:
        while (call := self._next()) is not None:
            try:
                call.act()
            except BaseException as error:  # noqa: BLE001 - the user's code: it is said once
                self._complain(call, error)
            del call

    def _complain(self, call: Call, error: BaseException) -> None:
        if id(call.source) not in self._failing:
            self._failing.add(id(call.source))
            _logger.error("a progress callback failed: %r", call.source, exc_info=error)

    def _next(self) -> Call | None:
        with self._changed:
            self._since_s = None
            self._changed.notify_all()
            while (call := self._due()) is None:
                if self._finishing:
                    self._thread = None
                    self._changed.notify_all()
                    return None
                self._changed.wait(self._pause_s())
            self._since_s = time.monotonic()
            return call

    def _due(self) -> Call | None:
        if self._must:
            return self._must.popleft()
        now_s = time.monotonic()
        for key in self._latest:
            if self._next_s.get(key, 0.0) <= now_s:
                self._next_s[key] = now_s + settings.PROGRESS_INTERVAL_S
                return self._latest.pop(key)
        return None

    def _pause_s(self) -> float | None:
        if not self._latest:
            return None
        first_s = min(self._next_s.get(key, 0.0) for key in self._latest)
        return max(0.0, first_s - time.monotonic())
