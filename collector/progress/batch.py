"""Counts what the jobs of one batch have done.

Runs in:    the parent; its methods may be called from any thread and never wait.
Owns:       the numbers of the batch, and the jobs of it that run.
Invariants: I1  no code of the user's runs while something is counted: events go to the reporter.
            I2  a job is held while it runs, not longer, nor between two attempts.
            I3  what is counted is counted in order, under no lock that a signal handler could keep
                from the thread that ends jobs (`InOrder`).
"""

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from typing import Final, Protocol, final

from collector import settings
from collector.progress.ends import Ended, How, Level, level_of, why
from collector.progress.event import Happening, ProgressEvent, ProgressSink
from collector.progress.in_order import InOrder
from collector.progress.report import Call, Reporter
from collector.progress.tally import Late, LeftOut, Said, Tally
from collector.progress.view import View
from collector.store.output.progress import Mode, Progress

batch_numbers: Final = itertools.count(1)
_NOTHING: Final = Progress(Mode.MEMORY, 0, 0, None, threshold_exceeded=False)


class Observed(Protocol):
    """A job, as far as its progress goes."""

    @property
    def id(self) -> int:
        """Its number."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def attempt_of_run(self) -> int:
        """Which attempt runs or ran last, of those that it has had now: the first is 1.

        What an earlier run of a batch directory has tried is none that this one is to tell of.
        """

    @property
    def progress(self) -> Progress:
        """How far its output is."""

    @property
    def meters(self) -> Mapping[str, float]:
        """What it has counted."""

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Its error, once it is over."""


class Observer(Protocol):
    """Whoever hears of a job. No method waits; the thread is the pool's."""

    def started(self, job: Observed) -> None:
        """An attempt begins."""

    def progressed(self, job: Observed) -> None:
        """It has written more."""

    def rests(self, job: Observed) -> None:
        """An attempt is over, and another one will follow: now, or when it may."""

    def ended(self, job: Observed) -> None:
        """It is over."""


@final
class Batch:
    """The jobs of one `collect`, or all that come through `submit` and `map`.

    Args:
        desc: A text of the user's.
        total: How many jobs there will be; None while that is not known.
        sink: Is told of each event, if given.
        reporter: Calls it.
        happened: Counts in order; shared by what is to be told in one order.
    """

    def __init__(
        self,
        desc: str,
        total: int | None,
        sink: ProgressSink | None = None,
        reporter: Reporter | None = None,
        happened: InOrder | None = None,
    ) -> None:
        self.number: Final = next(batch_numbers)
        self.owner_pid: Final = os.getpid()
        self._desc = desc
        self._total = total
        self._sink = sink
        self._reporter = reporter
        self._happened = happened or InOrder()
        self._tally = Tally()
        self._submitted = self._cancelled = self._spilled = 0
        self._running: dict[int, Observed] = {}
        self._ends: deque[Ended] = deque()
        self._left_out = 0
        self._waiting = ""
        self.ask_waiting: Callable[[], str] = str
        """Says what the batch waits for, if it does."""
        self._opened = self._complete = self._left = False
        self._begun_s = time.monotonic()

    def open(self) -> None:
        """It begins; or with its first job, should somebody be faster than whoever begins it."""
        self._happened.do(self._open)

    def submitted(self) -> None:
        """One more job belongs to it."""
        self._happened.do(self._count_submitted)

    def complete(self) -> None:
        """Those that were submitted are all there are, so far as anybody knows."""
        self._complete = True

    def waiting(self, text: str) -> None:
        """The batch waits: for what, and why; with "" no longer."""
        self._waiting = text

    def leave(self) -> None:
        """No further job will belong to it."""
        if os.getpid() == self.owner_pid:
            self._happened.do(self._leave)

    def started(self, job: Observed) -> None:
        """See `Observer.started`."""
        attempt, now_s = job.attempt_of_run, time.monotonic()
        self._happened.do(lambda: self._count_started(job, attempt, now_s))

    def progressed(self, job: Observed) -> None:
        """See `Observer.progressed`."""
        if self._sink is not None:
            self._happened.do(lambda: self._tell(Happening.PROGRESSED, job))

    def rests(self, job: Observed) -> None:
        """See `Observer.rests`."""
        now_s = time.monotonic()
        self._happened.do(lambda: self._count_rests(job, now_s))

    def ended(self, job: Observed) -> None:
        """See `Observer.ended`."""
        if os.getpid() != self.owner_pid:
            return
        ended, progress = _end_of(job), job.progress
        self._happened.do(lambda: self._count_ended(job, ended, progress))

    def view(self) -> View:
        """Return the numbers as they are now, and what the batch waits for."""
        return self._view(self._waiting or self.ask_waiting())

    def _view(self, waiting: str = "") -> View:
        now_s = time.monotonic()
        self._ask_how_far(now_s)
        running = self._tally.running(self.number, now_s)
        return View(
            batch=self.number,
            desc=self._desc,
            total=self._submitted - self._cancelled if self._complete else self._total,
            spilled=self._spilled + sum(job.mode is Mode.STREAMING for job in running),
            elapsed_s=now_s - self._begun_s,
            running=running,
            waiting=waiting,
            **self._tally.totals(running),
        )

    def news(self) -> list[Said]:
        """See `Drawn.news`."""
        now_s = time.monotonic()
        self._ask_how_far(now_s)
        said: list[Said] = [late for late in self._tally.late(now_s) if late.what is Late.SLOW]
        while self._ends:
            said.append(self._ends.popleft())
        left_out, self._left_out = self._left_out, 0
        return [*said, LeftOut(left_out, "ends of attempts")] if left_out else said

    def _open(self) -> None:
        if not self._opened:
            self._opened = True
            self._tell(Happening.OPENED)

    def _count_submitted(self) -> None:
        self._open()
        self._submitted += 1

    def _leave(self) -> None:
        self._left = True
        self._tell_if_closed()

    def _count_started(self, job: Observed, attempt: int, now_s: float) -> None:
        self._catch_up(job, attempt)
        self._running[job.id] = job
        self._tally.started(job.id, job.name, attempt, now_s)
        self._tell(Happening.STARTED, job)

    def _count_rests(self, job: Observed, now_s: float) -> None:
        self._running.pop(job.id, None)
        self._tally.rests(job.id, now_s)

    def _count_ended(self, job: Observed, ended: Ended | None, progress: Progress) -> None:
        self._running.pop(job.id, None)
        if ended is None:
            self._cancelled += 1
            self._tally.gone(job.id)
        else:
            self._catch_up(job, ended.attempt)
            seconds, _ = self._tally.so_far(job.id, time.monotonic())
            ended = ended._replace(seconds=seconds)
            self._tally.ended(ended)
            self._say(ended)
            self._spilled += progress.mode is Mode.STREAMING
        self._tell(Happening.ENDED, job, failed=ended is not None and ended.how is How.FAILED)
        self._tell_if_closed()

    def _catch_up(self, job: Observed, attempt: int) -> None:
        """Count the attempts that must have failed, if this one runs or ran."""
        for failed in range(self._tally.attempt(job.id), attempt):
            seconds, size_bytes = self._tally.so_far(job.id, time.monotonic())
            ended = Ended(
                job=job.id,
                name=job.name,
                how=How.FAILED,
                attempt=failed,
                again=True,
                seconds=seconds,
                size_bytes=size_bytes,
            )
            self._tally.ended(ended._replace(size_bytes=0))  # what it wrote is dropped
            self._say(ended)

    def _say(self, ended: Ended) -> None:
        if not Level.SLOW.has(level_of(ended)):
            return
        if len(self._ends) < settings.ENDS_WAITING:
            self._ends.append(ended)
        else:
            self._left_out += 1

    def _ask_how_far(self, now_s: float) -> None:
        for job in list(self._running.values()):  # one step: others may count meanwhile
            progress = job.progress
            self._tally.wrote(job.id, progress.bytes_written, now_s, progress.mode)

    def _tell_if_closed(self) -> None:
        if self._left and self._tally.done + self._cancelled == self._submitted:
            self._tell(Happening.CLOSED)

    def _tell(
        self, happened: Happening, job: Observed | None = None, *, failed: bool = False
    ) -> None:
        sink, reporter = self._sink, self._reporter
        if sink is None or reporter is None:
            return
        view = self._view()
        progress = _NOTHING if job is None else job.progress
        event = ProgressEvent(
            happened=happened,
            batch=self.number,
            desc=self._desc,
            job_id=None if job is None else job.id,
            name="" if job is None else job.name,
            attempt=1 if job is None else job.attempt_of_run,
            bytes_written=progress.bytes_written,
            mode=progress.mode,
            failed=failed,
            jobs_done=view.done,
            jobs_total=view.total,
            jobs_failed=view.failed,
            bytes_total=view.bytes_total,
            spilled=view.spilled or 0,
            meters={} if job is None else job.meters,
        )
        call = Call(sink, event.job_id or 0, lambda: sink.update(event))
        if happened is Happening.PROGRESSED:
            reporter.latest(call)
        else:
            reporter.must(call, last=happened is Happening.ENDED)


def _end_of(job: Observed) -> Ended | None:
    """Tell how a job has ended; None if it was cancelled."""
    try:
        error = job.exception(0)
    except CancelledError:
        return None
    how = How.PASSED if error is None else How.FAILED
    size_bytes = job.progress.bytes_written
    return Ended(
        job=job.id,
        name=job.name,
        how=how,
        attempt=job.attempt_of_run,
        size_bytes=size_bytes,
        why="" if error is None else why(error),
    )
