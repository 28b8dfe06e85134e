"""Calls the user's code with news of jobs, in a thread that nobody waits for.

Runs in:    the parent. `Reporter` takes calls from any thread, also in a signal handler that
            interrupts it; they are made in its own.
Owns:       that thread, from the first call to `finish`.
Invariants: I1  handing over a call never blocks and never raises, whatever the user's code does: it
                takes no lock but the one inside of a SimpleQueue, which no handler can interrupt.
            I2  of calls that replace each other only the latest is made, each key's at most every
                `PROGRESS_INTERVAL_S`; what must be said is said, in order, after what came before.
            I3  code of the user's that does not return costs its own news alone: what is kept for
                it is bounded, and nobody waits for it longer than `REPORT_PATIENCE_S`.
            I4  what waits behind slow code of the user's is bounded where a `collect` can take its
                inputs later, and dropped nowhere.
"""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from collector import settings
from collector.logger import PackageLogger

if TYPE_CHECKING:
    from collector.progress.batch import Observed
    from collector.store.output.progress import Progress

_logger: Final = PackageLogger()


@final
class Call(NamedTuple):
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
class _Must(NamedTuple):
    call: Call
    last: bool


_LOOK: Final = "look"
_END: Final = "end"


@final
class Reporter:
    """Makes calls in a thread of its own."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[_Must | str] = queue.SimpleQueue()
        self._latest: dict[tuple[int, int], Call] = {}
        self._told_to_look = False
        self._next_s: dict[tuple[int, int], float] = {}  # the thread's
        self._failing: set[int] = set()
        self._thread: threading.Thread | None = None
        self._since_s: float | None = None
        self._dropped = 0
        self._finishing = self._over = self._joining = False
        self._gates: list[threading.Lock] = []
        self._wanting: list[threading.Lock] = []
        self.left_behind = False
        """Whether a call did not return, and nobody waits for it any more."""
        self._owner_pid: Final = os.getpid()

    def latest(self, call: Call) -> None:
        """Make this call soon, unless another of its key comes before that."""
        if self._open():
            self._latest[call.key] = call
            if not self._told_to_look:  # else it looks after this
                self._told_to_look = True
                self._asked.put(_LOOK)
            self._begin()

    def must(self, call: Call, *, last: bool = False) -> None:
        """Make this call, after those that came before; with `last`, no more of its key follow."""
        if not self._open():
            return
        if last:
            self._latest.pop(call.key, None)
        if self._asked.qsize() >= settings.REPORT_BACKLOG and self._stuck_s() > 0:
            self._dropped += 1
            return
        self._asked.put(_Must(call, last))
        self._begin()

    def wait_for_room(self) -> None:
        """Wait while very many calls are to be made, unless one of them does not return."""
        while self._is_full():
            gate = threading.Lock()
            gate.acquire()
            self._wanting.append(gate)
            if self._is_full():
                gate.acquire(timeout=max(0.001, -self._stuck_s()))

    def _is_full(self) -> bool:
        if self._asked.qsize() < settings.REPORT_AHEAD or self._thread is None:
            return False
        in_a_call = self._thread is threading.current_thread()
        return self._open() and not in_a_call and self._stuck_s() <= 0

    def finish(self) -> None:
        """Take no more calls; the thread ends when those that it has are made."""
        self._finishing = True
        self._asked.put(_END)

    def wait(self) -> None:
        """After `finish`, wait for the end, unless a call does not return."""
        thread = self._thread
        if thread is None or thread is threading.current_thread() or thread.ident is None:
            return  # without a number it has not begun: we have interrupted who starts it
        if os.getpid() != self._owner_pid:
            return
        if not self._finishing:  # in a callback of the Collector's own: its end waits for us
            return
        if not self._has_ended():
            self._leave_behind()
        elif not self._joining:  # `join` takes a lock and gives it back: once
            self._joining = True
            thread.join()
            self._thread = None

    def _has_ended(self) -> bool:
        """Wait until the thread has made its calls; False if one does not return."""
        gate = threading.Lock()
        gate.acquire()
        self._gates.append(gate)
        while not self._over and self._stuck_s() <= 0:
            if gate.acquire(timeout=max(0.001, -self._stuck_s())):
                return True
        return self._over

    def _leave_behind(self) -> None:
        dropped = self._dropped + self._forget()
        self._asked.put(_END)
        self._thread = None
        self.left_behind = True
        _logger.warning(
            "a progress callback has not returned for %g s: it is left behind, and %d more "
            "calls are not made",
            settings.REPORT_PATIENCE_S,
            dropped,
        )

    def _open(self) -> bool:
        return not self._finishing and os.getpid() == self._owner_pid

    def _stuck_s(self) -> float:
        """For how long the call that is being made has been too long; less than 0 if it is not."""
        now_s, since_s = time.monotonic(), self._since_s
        return now_s - (now_s if since_s is None else since_s) - settings.REPORT_PATIENCE_S

    def _begin(self) -> None:
        """Start the thread, if nobody else does."""
        if self._thread is not None:
            return
        thread = threading.Thread(target=self._run, name="collector-report", daemon=True)
        if vars(self).setdefault("_starting", thread) is not thread:
            return
        self._thread = thread
        try:
            thread.start()
        except RuntimeError:  # no thread is to be had: this news is lost, the job is not
            self._thread = None
            self._forget()
            vars(self).pop("_starting")

    def _forget(self) -> int:
        """Forget every call that has not been made; return how many had to be."""
        self._latest.clear()
        self._told_to_look = False
        forgotten = 0
        with contextlib.suppress(queue.Empty):
            while True:
                forgotten += isinstance(self._asked.get_nowait(), _Must)
        return forgotten

    def _run(self) -> None:
        while (asked := self._next()) != _END:
            if isinstance(asked, _Must):
                self._make_must(asked)
            else:
                self._told_to_look = False
                self._make_due()
            del asked
        self._over = True
        while self._gates:
            self._gates.pop().release()

    def _make_waiting(self) -> None:
        """Make those calls by now that must be made."""
        for _ in range(self._asked.qsize()):
            asked = self._asked.get()
            if isinstance(asked, _Must):
                self._make_must(asked)
            elif asked == _END:
                self._asked.put(_END)
            else:
                self._told_to_look = False

    def _make_must(self, asked: _Must) -> None:
        if asked.last:
            self._next_s.pop(asked.call.key, None)
        self._make(asked.call)
        while self._wanting and self._asked.qsize() < settings.REPORT_AHEAD:
            self._wanting.pop().release()

    def _next(self) -> _Must | str:
        try:
            return self._asked.get(timeout=self._pause_s())
        except queue.Empty:
            return _LOOK

    def _make_due(self) -> None:
        keys = list(self._latest)
        self._make_waiting()  # the start of a job came before its progress
        now_s = time.monotonic()
        for key in keys:
            if self._next_s.get(key, 0.0) <= now_s:
                call = self._latest.pop(key, None)
                if call is not None:
                    self._next_s[key] = now_s + settings.PROGRESS_INTERVAL_S
                    self._make(call)

    def _make(self, call: Call) -> None:
        self._since_s = time.monotonic()
        try:
            call.act()
        except BaseException as error:  # noqa: BLE001 - the user's code: it is said once
            self._complain(call, error)
        finally:
            self._since_s = None

    def _complain(self, call: Call, error: BaseException) -> None:
        if id(call.source) not in self._failing:
            self._failing.add(id(call.source))
            _logger.error("a progress callback failed: %r", call.source, exc_info=error)

    def _pause_s(self) -> float | None:
        waiting = [self._next_s.get(key, 0.0) for key in list(self._latest)]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None


@final
class Callback:
    """The `on_progress` of some jobs: hears of each at most ten times a second, and at its end."""

    def __init__(
        self, on_progress: "Callable[[Any, Progress], object]", reporter: Reporter
    ) -> None:
        self._on_progress = on_progress
        self._reporter = reporter

    def started(self, job: "Observed") -> None:
        """See `Observer.started`."""

    def progressed(self, job: "Observed") -> None:
        """See `Observer.progressed`."""
        self._reporter.latest(self._call(job))

    def rests(self, job: "Observed") -> None:
        """See `Observer.rests`."""

    def ended(self, job: "Observed") -> None:
        """See `Observer.ended`."""
        self._reporter.must(self._call(job), last=True)

    def _call(self, job: "Observed") -> Call:
        progress, call = job.progress, self._on_progress
        return Call(call, job.id, lambda: call(job, progress))
