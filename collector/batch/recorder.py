"""Store what comes of the jobs of one `collect`, in a thread of its own, and settle them then.

Runs in:    the parent: `began` and `ended` in the pool's threads, which they never keep waiting;
            the rest in the recording thread, but for `leave` and `wait`.
Owns:       the batch writer, and the outputs of attempts that have ended until they are stored.
Invariants: I1  each job is settled once, also if it cannot be stored: then it fails.
            I2  a slow disk holds up the settling of this batch, and nothing else.
            I3  whatever ends the recording thread, the jobs that are open fail.
            I4  the writer is closed once no job is left, and nobody asks for more; in a forked
                child nothing is.
"""

import contextlib
import os
import pickle
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, final

from collector import settings
from collector.batch.jobs import Ended, KeptJob
from collector.batch.lines import LEFT_EARLY, Error
from collector.batch.storing import Attempt, Put
from collector.batch.writer import BatchWriter
from collector.errors import CollectorError, JobError, OutputLostError, SpillError, spill_error
from collector.logger import PackageLogger
from collector.process.pickling import calls
from collector.store.output.output import Output
from collector.wire.outcome import Outcome

_logger = PackageLogger()

_STATUSES: Final = {
    Outcome.RETURNED: "done",
    Outcome.RAISED: "error",
    Outcome.CRASHED: "crash",
    Outcome.SINK_LOST: "crash",
    Outcome.TIMED_OUT: "timeout",
    Outcome.KILLED: "killed",
}
"""What the journal says of an attempt that has ended so; of others it says nothing."""


_at_work: "Final[weakref.WeakSet[Recorder]]" = weakref.WeakSet()
"""All of this process."""


class _Began(NamedTuple):
    job: KeptJob
    reruns: int
    """The job's when it began: with other ones this attempt is over."""
    time: float


class _Spent(NamedTuple):
    job: KeptJob
    meters: Mapping[str, float]


@dataclass(slots=True)
class _Stored:
    """An attempt that was put where it belongs, as far as that could be."""

    one: Ended
    put: Put | None = None
    failure: BaseException | None = None
    """What the job is to fail with, because it could not be stored, or as stored."""


@final
class Recorder:
    """Stores the attempts of the jobs of one `collect`.

    Args:
        writer: Of the directory; it is closed in the end.
        drop: Ends those of some jobs, by their numbers, that wait to be run again.
    """

    def __init__(self, writer: BatchWriter, drop: Callable[[Iterable[int]], object]) -> None:
        self._writer = writer
        self._drop = drop
        self._pid = os.getpid()
        self._coming: queue.SimpleQueue[Ended | _Began | _Spent | None] = queue.SimpleQueue()
        self._running: dict[int, _Began] = {}
        self._group: list[Ended | _Began | _Spent | None] = []
        """What has come, and is being stored."""
        self._lock = threading.RLock()
        self._open: set[int] = set()
        """Numbers of the jobs that are not over."""
        self._left = False
        self._how = LEFT_EARLY
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._record, name="collector-record", daemon=True)
        _at_work.add(self)

    def start(self) -> None:
        """Begin to store; last of all, for then there is a thread that is to be ended."""
        try:
            self._thread.start()
        except BaseException:  # a Ctrl-C while it waits for the thread
            self._coming.put(None)
            raise

    @property
    def place(self) -> tuple[str, str]:
        """Which shard of which directory it writes."""
        return os.path.realpath(self._writer.directory.path), self._writer.options.shard

    def expect(self, job: KeptJob) -> None:
        """A job is about to be submitted: it is waited for."""
        job.add_done_callback(self._over)  # first: a Ctrl-C may come behind it
        with self._lock:
            self._open.add(job.id)
            self._idle.clear()

    def began(self, job: KeptJob) -> None:
        """See `Keeps.began`."""
        self._coming.put(_Began(job, job.reruns, time.time()))

    def ended(self, ended: Ended) -> None:
        """See `Keeps.ended`."""
        self._coming.put(ended)

    def spent(self, job: KeptJob, meters: Mapping[str, float]) -> None:
        """See `Keeps.spent`."""
        self._coming.put(_Spent(job, meters))

    def complete(self) -> None:
        """All jobs have been yielded."""
        self._how = "complete"

    def leave(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        """No further job will come. Waits for the end if none runs; else that comes by itself.

        A program that ends with a `collect` in a global variable calls this last of all, when this
        module has no names left, and no thread runs.
        """
        if is_ending() or os.getpid() != self._pid:
            return  # the lock may have been held at the fork
        with self._lock:
            first, self._left = not self._left, True
            idle = not self._open
            if first and idle:
                self._coming.put(None)
        if idle and threading.current_thread() is not self._thread:
            self._thread.join()

    def wait_if_left(self) -> None:
        """Let the jobs end of a `collect` that was left, so that another may go on in its shard.

        What waits to be run again is left to that one.
        """
        if not self._left or os.getpid() != self._pid:
            return
        with self._lock:
            running = list(self._open)
        if running:
            _logger.warning(
                "%s: waits for %d jobs of an earlier collect, which was left, to end.",
                self._writer.directory.path,
                len(running),
            )
            self._drop(running)
        self.wait()

    def wait(self) -> None:
        """Wait until everything that has ended is stored; at once in the recording thread."""
        if os.getpid() != self._pid or threading.current_thread() is self._thread:
            return
        self._idle.wait()
        if self._left:
            self._thread.join()

    def _over(self, job: Any) -> None:
        if job.cancelled():  # also after attempts that asked to be made later
            self.spent(job, job.meters_of_run)
        with self._lock:
            self._open.discard(job.id)
            if not self._open:
                self._idle.set()
                if self._left:
                    self._coming.put(None)

    def _record(self) -> None:
        try:
            self._store_what_comes()
        except BaseException as error:
            # No disk and no job is to blame. Whoever waits hears of it by jobs that fail.
            _logger.exception("the results of a batch are not stored any more")
            self._fail_what_comes(error)
        finally:
            self._group = []  # its jobs hold this
            self._writer.close(self._how)

    def _store_what_comes(self) -> None:
        while None not in self._group:
            self._take_group()
            for one in self._group:
                if isinstance(one, _Began):
                    self._running.pop(one.job.id, None)  # an attempt that asked to be made later
                    self._running[one.job.id] = one
            self._store_all([one for one in self._group if isinstance(one, Ended | _Spent)])

    def _fail_what_comes(self, error: BaseException) -> None:
        """Let all jobs fail that are not settled; some of the last group may be."""
        while True:
            for one in self._group:
                if isinstance(one, Ended) and not one.job.done():
                    _settle(one, _not_stored(one, error))
            if None in self._group:
                return
            self._group = [self._coming.get()]

    def _take_group(self) -> None:
        """Wait for what comes next, with all that has come by then."""
        self._group = []
        with contextlib.suppress(queue.Empty):
            self._group.append(self._coming.get(timeout=self._tell_of_long_ones()))
            while len(self._group) < settings.STORED_TOGETHER:
                self._group.append(self._coming.get_nowait())

    def _tell_of_long_ones(self) -> float | None:
        """Write of those that have run for a second; returns seconds until the next will have."""
        now = time.time()
        for number, began in list(self._running.items()):
            due_s = began.time + settings.TOLD_AFTER_S - now
            if due_s > 0:
                # They are in the order in which they began. A clock that is set back delays it.
                return min(due_s, settings.TOLD_AFTER_S)
            del self._running[number]
            if not began.job.done() and began.reruns == began.job.reruns:
                self._writer.started(began.job.task, began.time)
        return None

    def _store_all(self, group: list[Ended | _Spent]) -> None:
        stored: list[_Stored] = []
        for one in group:
            if isinstance(one, _Spent):
                self._tell_spent(one.job, one.job.spent.by_all(one.meters))
                continue
            self._running.pop(one.job.id, None)
            stored.append(self._store(one))
        failure: BaseException | None = None
        try:
            self._writer.flush()
        except Exception as error:  # noqa: BLE001 - those fail with it that do not count
            failure = _as_ours(error)
        for each in stored:
            put = each.put
            if put is not None and not put.counts:
                each.failure = put.failure or failure
                if put.ended.meters:
                    self._list(each.one.job)
            _settle(each.one, each.failure)
        stored.clear()

    def _tell_spent(self, job: KeptJob, meters: Mapping[str, float]) -> None:
        if meters:
            self._list(job)
            self._writer.spent(job.task.key, meters)

    def _list(self, job: KeptJob) -> None:
        """Have the journal know of a job of which no other line may ever tell."""
        if not (job.listed or self._writer.attempts(job.task)):
            # Who looks through all jobs is to find what it has spent.
            job.listed = True
            with contextlib.suppress(SpillError):
                self._writer.read(job.task)

    def _store(self, one: Ended) -> _Stored:
        """Put an attempt where it belongs; it counts when its group does."""
        stored = _Stored(one)
        status = _STATUSES.get(one.ending.end.outcome)
        if one.ending.end.out_of_memory and status == "crash":
            status = "oom"
        # Whoever shut the Collector down has interrupted it.
        interrupted = one.ending.end.outcome is Outcome.KILLED and not one.job.wanted_dead
        meters = one.job.spent.by_an_attempt(one.ending.meters)
        if not (
            status is None or interrupted or isinstance(one.error, OutputLostError | SpillError)
        ):
            try:
                self._put(stored, status, meters)
            except Exception as error:  # noqa: BLE001 - the job fails with it
                stored.failure = _as_ours(error)
            except BaseException as error:  # noqa: BLE001 - so it does, but whoever asks for its result must not exit
                stored.failure = _not_stored(one, error)
        if stored.put is None:
            # It leaves no line but of what it has spent, and runs in the next run.
            self._tell_spent(one.job, meters)
        return stored

    def _put(self, stored: _Stored, status: str, meters: Mapping[str, float]) -> None:
        one = stored.one
        attempt = Attempt(
            status=status,
            start=one.ending.began_s or one.end,
            end=one.end,
            worker=one.ending.worker or None,
            exitcode=one.ending.end.exitcode,
            output=one.output,
            log=one.log,
            meters=meters,
        )
        error = one.error or self._put_success(stored, attempt)
        if error is None:
            return
        attempt.save = ""
        attempt.status = _status_of(error, status)
        said = calls.shorten(calls.text_of(error))
        attempt.error = Error(type(error).__qualname__, said, calls.describe(error))
        attempt.value = calls.dump_exception(error, _pickled)
        stored.put = self._writer.put(one.job.task, attempt)
        if error is not one.error:
            stored.failure = error

    def _put_success(self, stored: _Stored, attempt: Attempt) -> Exception | None:
        """Put what succeeded; returns why it counts as failed, where that is the job's doing."""
        task = stored.one.job.task
        if task.refused is not None:
            return task.refused
        try:
            attempt.value = _pickled_value(stored.one)
        except JobError as error:
            return error
        attempt.save = task.save
        try:
            stored.put = self._writer.put(task, attempt)
        except CollectorError:
            raise
        except OSError as error:
            if not attempt.save:
                raise
            return error  # the name is taken, or cannot be had
        return None


def _status_of(error: BaseException, status: str) -> str:
    if status == "error" and isinstance(error, MemoryError):
        return "oom"
    return "error" if status == "done" else status


def _settle(one: Ended, failure: BaseException | None) -> None:
    """Let the job be over, or go on."""
    output, log = one.output, one.log
    error = failure or one.error
    if isinstance(failure, SpillError):  # to make room: so it is for every job
        output.close()
        output = Output.in_memory(b"", chunks=0, complete=False)
    if not one.last:
        output.close()
        if log is not None:
            log.close()
        return
    try:
        one.job.settle_now(None if error else one.value, error, output, log)
    except BaseException:
        # A callback of the user's that exits: the others are settled all the same.
        _logger.exception("a callback of a job failed")


def _not_stored(one: Ended, error: BaseException) -> JobError:
    """Say that the attempt is not stored, of what is no error but ends a thread."""
    job = one.job
    message = f"what job {job.name} has left could not be stored: {calls.describe(error)}"
    return JobError(message, job.id, job.name, job.attempt)


def _as_ours(error: BaseException) -> BaseException:
    """Say what a disk refuses as for every output."""
    if isinstance(error, OSError) and not isinstance(error, CollectorError):
        return spill_error(error, error.filename or "")
    return error


def _pickled_value(one: Ended) -> bytes:
    if one.value is None:
        return b""
    try:
        return _pickled(one.value)
    except BaseException as failure:  # noqa: BLE001 - user code runs in pickling: the job fails
        job = one.job
        raise JobError(
            f"what job {job.name} returned cannot be stored: {calls.describe(failure)}",
            job.id,
            job.name,
            job.attempt,
        ) from None


def _pickled(value: object) -> bytes:
    """Pickle by name, for the next run of the same script; by value what has none."""
    try:
        return pickle.dumps(value, protocol=5)
    except Exception:  # noqa: BLE001 - then it is tried by value
        return calls.dumps(value)


def wait_for_left(path: str, shard: str) -> None:
    """Wait until no `collect` of this process that was left has jobs of that shard.

    Runs in: the thread that iterates the next one.
    """
    place = os.path.realpath(path), shard
    for recorder in list(_at_work):
        if recorder.place == place:
            recorder.wait_if_left()
