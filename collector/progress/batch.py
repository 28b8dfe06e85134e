"""Counts what the jobs of one batch have done.

Runs in:    the parent; its methods may be called from any thread and never wait.
Owns:       the numbers of the batch, and the jobs of it that run.
Invariants: I1  no code of the user's runs under its lock: events go to the reporter.
            I2  a job is held from its start to its end, not longer.
"""

import itertools
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any, Final, Protocol, final

from collector.progress.event import Happening, ProgressEvent, ProgressSink
from collector.progress.report import Call, Reporter
from collector.store.mode import Mode, Progress

_numbers: Final = itertools.count(1)
_NOTHING: Final = Progress(Mode.MEMORY, 0, 0, None, threshold_exceeded=False)


class Watched(Protocol):
    """A job, as far as its progress goes."""

    @property
    def id(self) -> int:
        """Its number."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def attempt(self) -> int:
        """Which attempt runs or ran last."""

    @property
    def progress(self) -> Progress:
        """How far its output is."""

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Its error, once it is over."""


class Watcher(Protocol):
    """Whoever hears of a job. No method waits; the thread is the pool's."""

    def started(self, job: Watched) -> None:
        """An attempt begins."""

    def progressed(self, job: Watched) -> None:
        """It has written more."""

    def ended(self, job: Watched) -> None:
        """It is over."""


@final
@dataclass(frozen=True, slots=True)
class RunningJob:
    """A job that runs, as of now."""

    batch: int
    id: int
    name: str
    attempt: int
    progress: Progress
    elapsed_s: float


@final
@dataclass(frozen=True, slots=True)
class View:
    """A batch, as of now."""

    batch: int
    desc: str
    done: int
    total: int | None
    failed: int
    spilled: int
    bytes_total: int
    elapsed_s: float
    running: tuple[RunningJob, ...]


@final
class Batch:
    """The jobs of one `collect`, or all that come through `submit` and `map`.

    Args:
        desc: A text of the user's.
        total: How many jobs there will be; None while that is not known.
        sink: Is told of each event, if given.
        reporter: Calls it.
    """

    def __init__(
        self,
        desc: str,
        total: int | None,
        sink: ProgressSink | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        self.number: Final = next(_numbers)
        self.owner_pid: Final = os.getpid()
        self._desc = desc
        self._total = total
        self._sink = sink
        self._reporter = reporter
        self._lock = threading.RLock()
        self._submitted = self._cancelled = self._done = 0
        self._failed = self._spilled = self._bytes = 0
        self._running: dict[int, tuple[Watched, float]] = {}
        self._complete = self._left = False
        self._begun_s = time.monotonic()
        self._tell(Happening.OPENED)

    def submitted(self) -> None:
        """One more job belongs to it."""
        with self._lock:
            self._submitted += 1

    def complete(self) -> None:
        """Those that were submitted are all there are, so far as anybody knows."""
        self._complete = True

    def leave(self) -> None:
        """No further job will belong to it."""
        if os.getpid() == self.owner_pid:
            with self._lock:
                self._left = True
                self._tell_if_closed()

    def started(self, job: Watched) -> None:
        """See `Watcher.started`."""
        with self._lock:
            self._running[job.id] = job, time.monotonic()
            self._tell(Happening.STARTED, job)

    def progressed(self, job: Watched) -> None:
        """See `Watcher.progressed`."""
        if self._sink is not None:
            with self._lock:
                self._tell(Happening.PROGRESSED, job)

    def ended(self, job: Watched) -> None:
        """See `Watcher.ended`."""
        if os.getpid() != self.owner_pid:
            return
        failed = _has_failed(job)
        progress = job.progress
        with self._lock:
            self._running.pop(job.id, None)
            self._cancelled += failed is None
            self._done += failed is not None
            self._failed += bool(failed)
            self._bytes += progress.bytes_written
            self._spilled += progress.mode is Mode.STREAMING
            self._tell(Happening.ENDED, job, failed=bool(failed))
            self._tell_if_closed()

    def view(self) -> View:
        """Return the numbers as they are now."""
        with self._lock:
            now_s = time.monotonic()
            running = tuple(
                RunningJob(
                    self.number, job.id, job.name, job.attempt, job.progress, now_s - started_s
                )
                for job, started_s in self._running.values()
            )
            return View(
                batch=self.number,
                desc=self._desc,
                done=self._done,
                total=self._submitted - self._cancelled if self._complete else self._total,
                failed=self._failed,
                spilled=self._spilled + sum(r.progress.mode is Mode.STREAMING for r in running),
                bytes_total=self._bytes + sum(r.progress.bytes_written for r in running),
                elapsed_s=now_s - self._begun_s,
                running=running,
            )

    def _tell_if_closed(self) -> None:
        if self._left and self._done + self._cancelled == self._submitted:
            self._tell(Happening.CLOSED)

    def _tell(
        self, happened: Happening, job: Watched | None = None, *, failed: bool = False
    ) -> None:
        sink, reporter = self._sink, self._reporter
        if sink is None or reporter is None:
            return
        view = self.view()
        progress = _NOTHING if job is None else job.progress
        event = ProgressEvent(
            happened=happened,
            batch=self.number,
            desc=self._desc,
            job_id=None if job is None else job.id,
            name="" if job is None else job.name,
            attempt=1 if job is None else job.attempt,
            bytes_written=progress.bytes_written,
            mode=progress.mode,
            failed=failed,
            jobs_done=view.done,
            jobs_total=view.total,
            jobs_failed=view.failed,
            bytes_total=view.bytes_total,
            spilled=view.spilled,
        )
        call = Call(sink, event.job_id or 0, lambda: sink.update(event))
        if happened is Happening.PROGRESSED:
            reporter.latest(call)
        else:
            reporter.must(call, last=happened is Happening.ENDED)


@final
class Callback:
    """The `on_progress` of some jobs: hears of each at most ten times a second, and at its end."""

    def __init__(self, on_progress: Callable[[Any, Progress], object], reporter: Reporter) -> None:
        self._on_progress = on_progress
        self._reporter = reporter

    def started(self, job: Watched) -> None:
        """See `Watcher.started`."""

    def progressed(self, job: Watched) -> None:
        """See `Watcher.progressed`."""
        self._reporter.latest(self._call(job))

    def ended(self, job: Watched) -> None:
        """See `Watcher.ended`."""
        self._reporter.must(self._call(job), last=True)

    def _call(self, job: Watched) -> Call:
        progress, call = job.progress, self._on_progress
        return Call(call, job.id, lambda: call(job, progress))


def _has_failed(job: Watched) -> bool | None:
    """Tell how a job has ended; None if it was cancelled."""
    try:
        return job.exception(0) is not None
    except CancelledError:
        return None
