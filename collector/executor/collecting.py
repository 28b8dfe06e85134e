"""Yield the jobs of one `collect` as they finish, with no more of them open than are needed.

Runs in:    the parent, in the thread that iterates.
Owns:       nothing; what submits the jobs may keep what comes of them.
Invariants: I1  no job is held here that was yielded.
            I2  what keeps the next job from being there is raised behind the jobs before it.
"""

import contextlib
import math
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, final

from collector.errors import BatchHaltedError, JobKilledError
from collector.executor.halting import (
    Halt,
    Halting,
    Urgency,
    checked_budget,
    failure_text,
    quotable,
)
from collector.executor.options import Options

if TYPE_CHECKING:
    from concurrent.futures import Future

    from collector.executor.core import Core
    from collector.executor.job import Job
    from collector.process.pool.pool import Pool
    from collector.progress.board import OpenBatch

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


class Submits(Protocol[T_contra]):
    """Makes the jobs of one `collect`."""

    def submit(self, item: T_contra, /) -> "Job[Any] | None":
        """Make the job of an item; None if it is not one of this `collect`."""

    def complete(self) -> None:
        """All jobs have been yielded."""

    def leave(self) -> None:
        """No further item will come; jobs may still run."""

    def spent(self) -> "Mapping[str, float]":
        """Return what earlier runs have counted, whose results these are."""

    def has(self) -> int:
        """Return how many results it has of inputs that have not come yet, as far as it knows."""

    def continued_by(self) -> str:
        """Say how the rest is run."""


Submitting = Callable[["OpenBatch"], Submits[T]]
"""Begins to submit, for a batch that is shown."""


@final
class JustRun(Generic[T]):
    """Submits each item to the pool, and keeps nothing."""

    def __init__(
        self,
        core: "Core",
        options: Options,
        fn: Callable[[T], Any],
        numbers: Iterator[int],
        batch: "OpenBatch",
    ) -> None:
        self._core = core
        self._options = options
        self._fn = fn
        self._numbers = numbers
        self._batch = batch

    def submit(self, item: T, /) -> "Job[Any]":
        """See `Submits.submit`."""
        return self._core.submit(
            (self._fn, (item,), {}),
            self._options,
            self._batch.belonging,
            numbers=self._numbers,
        )

    def complete(self) -> None:
        """See `Submits.complete`."""

    def leave(self) -> None:
        """See `Submits.leave`."""

    def spent(self) -> "Mapping[str, float]":
        """See `Submits.spent`."""
        return {}

    def has(self) -> int:
        """See `Submits.has`."""
        return 0

    def continued_by(self) -> str:
        """See `Submits.continued_by`."""
        return "give batch= a directory, and the same call goes on with what is left"


def stopping(
    halt: str | None, budget: Mapping[str, float] | None, total: int | None, parts: int
) -> "Stopping | None":
    """Return what stops a `collect`, if something does.

    Raises:
        ValueError: A condition or a bound that makes no sense.
        TypeError: One of a wrong type.
    """
    condition = None if halt is None else Halt.parse(halt)
    limits = checked_budget({} if budget is None else budget)
    if condition is None and not limits:
        return None
    return Stopping(condition, limits, total, parts)


@final
class Stopping:
    """Stops one `collect` at its halt or budget.

    Args:
        halt: The condition on ends, if there is one.
        budget: Bounds of meters.
        total: How many inputs there are, if that is known.
        parts: The jobs are those of one of so many parts: a percentage is one of an even share.
    """

    def __init__(
        self, halt: Halt | None, budget: Mapping[str, float], total: int | None, parts: int = 1
    ) -> None:
        self._halt = halt
        self._budget = budget
        self._total = total if parts == 1 else None
        self._share = None if total is None else math.ceil(total / parts)
        self._halting = Halting()
        self._lock = threading.Lock()
        self._counts: deque[Callable[[], object]] = deque()
        """Spend what was counted, one after the other and with the lock held."""
        self._pool: Pool | None = None
        self.open_jobs: deque[Job[Any]] = deque()
        """Those that have been submitted and not yielded."""
        self.finished: queue.SimpleQueue[Future[Any] | None] = queue.SimpleQueue()
        """Where `_next_is_first` learns of ends; a None, once a meter has reached its bound."""
        self.done = 0
        """How many jobs have been yielded."""
        self.left = 0
        """How many of the jobs that were submitted have not ended by themselves."""

    def begin(self, pool: "Pool", spent: Mapping[str, float]) -> None:
        """The batch begins, whose earlier runs have spent so much, by the names of meters."""
        self._halting = Halting(self._halt, self._budget, spent)
        self._halting.total = self._share
        self._pool = pool

    def stops(self) -> bool:
        """Whether the batch is to stop."""
        return bool(self._halting.reason)

    def watch(self, job: "Job[Any]") -> None:
        """A job was submitted."""
        if not self._budget or job.resumed:
            return

        def counted(more: Mapping[str, float], sums: Mapping[str, float]) -> None:
            self._counts.append(lambda: None if sums is known else self._halting.spend(more))
            self._spend()

        # 1. A count is in the sum of the job, 2. which is taken here, 3. and that count is told.
        with self._lock:
            job.at_count = counted
            known = job.meters_of_run
            self._counts.append(lambda: self._halting.spend(known))  # what it had counted by then
        self._spend()

    def _spend(self) -> None:
        """Spend what was counted; if the lock is held, who holds it does so behind that.

        The supervising thread must not wait for it: a signal handler that waits for a job may have
        interrupted the thread that holds it.
        """
        while self._counts and self._lock.acquire(blocking=False):
            try:
                before = self._halting.reason
                while self._counts:
                    self._counts.popleft()()
                stops = self._halting.reason != before
            finally:
                self._lock.release()
            if stops:
                self.finished.put(None)

    def ended(self, job: "Job[Any]") -> None:
        """A job has ended that is yielded next."""
        self.done += 1
        if job.resumed or job.cancelled():
            return  # of an earlier run, or nothing has run
        error = job.exception()
        # First: it runs code of the user's, and what others count is not spent meanwhile.
        text = None if error is None else failure_text(error, _names_of(job))
        with self._lock:
            self._halting.ended(text)
        self._spend()

    def all_taken(self, count: int) -> None:
        """There are so many inputs: the last one was taken."""
        with self._lock:
            self._halting.expect(count)
        self._spend()

    def drain(self, *, ordered: bool) -> "Iterator[Job[Any]]":
        """Yield what ends by itself of the open jobs, as it ends or in order; end the others."""
        assert self._pool is not None
        jobs, pool = self.open_jobs, self._pool
        waiting = [job for job in jobs if not job.cancel()]
        ended_by_us = {job.id for job in waiting if not job.done()}
        if self._halting.urgency is Urgency.NOW:
            for number in ended_by_us:
                pool.kill(number)
        else:
            pool.drop(ended_by_us)
            pool.cancel(waiting)
        del waiting  # they are not to be held until the last one is over
        while jobs:
            if not _next_is_first(jobs, self.finished, ordered=ordered):
                continue
            if jobs[0].cancelled() or _was_dropped(jobs[0], ended_by_us):
                self.left += 1
                jobs.popleft()
            else:
                self.done += 1
                yield jobs.popleft()

    def error(self, submits: Submits[Any]) -> BatchHaltedError:
        """Return what the `collect` ends with."""
        left = f"{self.left} of the jobs that were submitted have not been run to their end"
        if self._total is not None:
            left = f"{max(0, self._total - self.done - submits.has())} of {self._total} are left"
        message = f"the batch has stopped: {self._halting.reason}; {left}; {submits.continued_by()}"
        return BatchHaltedError(message, self._halting.reason, self.done, self.left)


def collected(  # noqa: PLR0913 - the parts of a `collect`
    pool: "Pool",
    begin: Submitting[T],
    items: Iterator[T],
    ahead: int,
    open_batch: "Callable[[], OpenBatch]",
    *,
    ordered: bool,
    stopping: Stopping | None = None,
) -> "Generator[Job[Any], None, None]":
    """Run a job for each item and yield them as they finish, or in the order of the items."""
    batch = open_batch()
    open_jobs: deque[Job[Any]] = deque() if stopping is None else stopping.open_jobs
    submits: Submits[T] | None = None
    try:
        submits = begin(batch)
        if stopping is None:
            yield from _to_the_end(submits, items, ahead, batch, open_jobs, ordered=ordered)
        else:
            yield from _stopped(
                pool, submits, items, ahead, batch, ordered=ordered, stopping=stopping
            )
    finally:
        try:
            pool.cancel(open_jobs)
        finally:
            if submits is not None:
                submits.leave()
            batch.leave()


def _to_the_end(
    submits: Submits[T],
    items: Iterator[T],
    ahead: int,
    batch: "OpenBatch",
    open_jobs: "deque[Job[Any]]",
    *,
    ordered: bool,
) -> "Iterator[Job[Any]]":
    finished: queue.SimpleQueue[Future[Any]] = queue.SimpleQueue()
    coming = _submitted(submits, items, batch, None if ordered else finished.put)
    failure: Exception | None = None
    try:
        while True:
            if failure is None:
                failure = _take(coming, ahead, open_jobs)
            if open_jobs and ordered:
                _settled(open_jobs[0])
                yield open_jobs.popleft()
            elif open_jobs:
                yield _taken(finished.get(), open_jobs)
            elif failure is None:
                batch.complete()
                submits.complete()
                return
            else:
                raise failure
    finally:
        del failure  # its traceback holds this frame


def _stopped(  # noqa: C901, PLR0912, PLR0913, PLR0915 - as `collected`, with a reason to stop
    pool: "Pool",
    submits: Submits[T],
    items: Iterator[T],
    ahead: int,
    batch: "OpenBatch",
    *,
    ordered: bool,
    stopping: Stopping,
) -> "Iterator[Job[Any]]":
    """Do as `collected`, until it is time to stop; then raise why."""
    open_jobs, finished = stopping.open_jobs, stopping.finished
    taken = 0
    failure: BaseException | None = None
    over = False
    try:
        stopping.begin(pool, submits.spent())
        at_end = (lambda _job: finished.put(None)) if ordered else finished.put
        coming = _submitted(submits, items, batch, at_end)
        while not stopping.stops():
            while len(open_jobs) < ahead and not (over or stopping.stops()):
                count = len(open_jobs)
                failure = _take(coming, count + 1, open_jobs)
                over = len(open_jobs) == count
                if not over:
                    taken += 1
                    stopping.watch(open_jobs[-1])
            if over and failure is None:
                stopping.all_taken(taken)
            if not open_jobs:
                if failure is not None:
                    raise failure
                if not stopping.stops():
                    batch.complete()
                    submits.complete()
                    return
            elif not stopping.stops() and _next_is_first(open_jobs, finished, ordered=ordered):
                stopping.ended(open_jobs[0])
                yield open_jobs.popleft()
        yield from stopping.drain(ordered=ordered)
        raise stopping.error(submits)
    finally:
        del failure


def _next_is_first(
    jobs: "deque[Job[Any]]",
    finished: "queue.SimpleQueue[Future[Any] | None]",
    *,
    ordered: bool,
) -> bool:
    """Wait for news; returns whether the first of the jobs is the one to be yielded next.

    Args:
        jobs: The open ones. One that is over comes first, unless their order is to be kept.
        finished: Each job once it is over, or a None if their order is to be kept.
        ordered: Whether it is.
    """
    if ordered:
        if not jobs[0].done():
            finished.get()
        return jobs[0].done()
    job: Any = finished.get()
    if job is not None:
        jobs.remove(job)
        jobs.appendleft(job)
    return job is not None


def _names_of(job: "Job[Any]") -> list[str]:
    inputs: list[object] = []
    for given in job.args:
        with contextlib.suppress(Exception):  # no path, or one of the user's that is not local
            inputs.append(os.fspath(given))
    return [job.name, *quotable(inputs)]


def _was_dropped(job: "Job[Any]", dropped: set[int]) -> bool:
    return job.id in dropped and isinstance(job.exception(), JobKilledError)


def _submitted(
    submits: Submits[T],
    items: Iterator[T],
    batch: "OpenBatch",
    at_end: "Callable[[Future[Any]], object] | None",
) -> "Iterator[Job[Any]]":
    """Return the jobs of the items; a generator would end with the first error."""

    def submitted(item: T) -> "Job[Any] | None":
        batch.wait_for_room()
        try:
            job = submits.submit(item)
        except StopIteration as error:  # `map` would take it for the end of the items
            message = "submitting a job raised StopIteration: a next() in key= needs a default"
            raise RuntimeError(message) from error
        if job is not None and at_end is not None:
            job.add_done_callback(at_end)
        return job

    return filter(None, map(submitted, items))


def _take(coming: "Iterator[Job[Any]]", ahead: int, jobs: "deque[Job[Any]]") -> Exception | None:
    """Add jobs until so many are open, one at least.

    Returns:
        What kept the next one from being there. A Ctrl-C is raised.
    """
    try:
        for job in coming:
            jobs.append(job)
            del job  # the traceback of an error would hold it
            if len(jobs) >= ahead:
                break
    except Exception as error:  # noqa: BLE001 - the user's iterable: raised behind the jobs before it
        return error
    return None


def _settled(job: "Job[Any]") -> None:
    """Wait for the end, whatever it is."""
    done = threading.Event()
    job.add_done_callback(lambda _job: done.set())
    done.wait()


def _taken(job: Any, open_jobs: "deque[Job[Any]]") -> "Job[Any]":
    open_jobs.remove(job)
    taken: Job[Any] = job
    return taken
