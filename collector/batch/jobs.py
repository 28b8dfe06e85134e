"""Jobs of a batch that is kept: one that is stored before it is over, and one that was.

Runs in:    the parent: what is public in threads of the user's, the rest as `JobOwner` says.
Invariants: I1  a job is over for its user when everything of it is stored, not earlier.
            I2  a resumed job costs no process, and reads its bytes when they are asked for.
"""

import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol, final

from collector.batch.history import History
from collector.batch.record import Record, record_of
from collector.batch.storing import Task
from collector.errors import JobError
from collector.executor.job import Job
from collector.logger import PackageLogger
from collector.process.pickling import calls
from collector.process.pool.ending import Ending
from collector.process.pool.pool import Pool
from collector.store.output.output import Output
from collector.store.output.progress import Mode, Progress

_logger = PackageLogger("concurrent.futures")


class Ended(NamedTuple):
    """An attempt that has ended, with all that it has left.

    Attributes:
        end: When, in seconds since the epoch.
        last: Whether no other attempt follows.
    """

    job: "KeptJob"
    ending: Ending
    end: float
    value: Any
    error: BaseException | None
    output: Output
    log: Output | None
    last: bool


@final
class Spent:
    """What the lines of a job say that it has counted; each count is to be in one of them.

    Runs in: the recording thread.
    """

    __slots__ = ("_all", "_since")

    def __init__(self) -> None:
        self._all: Mapping[str, float] = {}
        self._since: Mapping[str, float] = {}

    def by_an_attempt(self, meters: Mapping[str, float]) -> dict[str, float]:
        """Return what is still to be said of an attempt; those that left no line are part of it."""
        left = _difference(meters, self._since)
        self._all, self._since = _sum(self._all, left), {}
        return left

    def by_all(self, meters: Mapping[str, float]) -> dict[str, float]:
        """Return what is still to be said of all attempts so far."""
        left = _difference(meters, self._all)
        self._all, self._since = _sum(self._all, left), _sum(self._since, left)
        return left


def _sum(some: Mapping[str, float], more: Mapping[str, float]) -> dict[str, float]:
    return {name: some.get(name, 0) + more.get(name, 0) for name in {**some, **more}}


def _difference(some: Mapping[str, float], less: Mapping[str, float]) -> dict[str, float]:
    left = {name: some.get(name, 0) - less.get(name, 0) for name in {**some, **less}}
    return {name: number for name, number in left.items() if number}


class Earlier(NamedTuple):
    """What a job has behind it when a run begins.

    Attributes:
        attempts: How many of it have ended.
        meters: What all have counted.
    """

    attempts: int
    meters: Mapping[str, float]


class Keeps(Protocol):
    """Stores what comes of jobs (`recorder.Recorder`)."""

    def began(self, job: "KeptJob") -> None:
        """An attempt has begun."""

    def ended(self, ended: Ended) -> None:
        """An attempt has ended."""

    def spent(self, job: "KeptJob", meters: Mapping[str, float]) -> None:
        """All attempts of a job have counted so much by now, also those that leave no line."""


@final
class KeptJob(Job[Any]):
    """A job whose attempts are stored, each before the job goes on or is over."""

    keeps_attempts = True
    listed = False
    """Whether the journal has a line with its name and its input, though none of its end."""

    def __init__(
        self, keeps: Keeps, task: Task, earlier: Earlier, *arguments: Any, **options: Any
    ) -> None:
        super().__init__(*arguments, **options)
        self.task: Final = task
        self.spent: Final = Spent()
        if earlier.attempts:
            self.earlier_attempts = earlier.attempts
        self._earlier_meters = earlier.meters
        self._keeps = keeps
        self._ending: Ending | None = None
        task.name = self.name

    @property
    def meters(self) -> Mapping[str, float]:
        """As `Job.meters`."""
        return MappingProxyType(_sum(self._earlier_meters, self.meters_of_run))

    def kill(self) -> bool:
        """As `Job.kill`."""
        self.wanted_dead = True
        return super().kill()

    def started(self) -> None:
        """See `JobOwner.started`."""
        super().started()
        self._keeps.began(self)

    def attempted(self, attempt: int) -> None:
        """See `JobOwner.attempted`."""
        if attempt == self.attempt_of_run:  # it asks to be made later, and leaves no line
            self._keeps.spent(self, self.meters_of_run)
        super().attempted(attempt)

    def attempt_failed(
        self, ending: Ending, error: BaseException | None, output: Output, log: Output | None
    ) -> None:
        """See `JobOwner.attempt_failed`."""
        self._keeps.ended(Ended(self, ending, time.time(), None, error, output, log, last=False))

    def ran(self, ending: Ending) -> None:
        """See `JobOwner.ran`."""
        self._ending = ending

    def settle(
        self, value: Any, error: BaseException | None, output: Output, log: Output | None
    ) -> None:
        """See `JobOwner.settle`: it is stored first, in another thread."""
        ending, self._ending = self._ending, None  # it has this job
        if ending is None:
            super().settle(value, error, output, log)
        else:
            ended = Ended(self, ending, time.time(), value, error, output, log, last=True)
            self._keeps.ended(ended)

    def settle_now(
        self, value: Any, error: BaseException | None, output: Output, log: Output | None
    ) -> None:
        """It is stored, or cannot be: now it is over."""
        super().settle(value, error, output, log)


@final
class ResumedJob(Job[Any]):
    """A job whose result was in the directory: it is over, and no process has run it now.

    Args:
        pool: Of its Collector.
        job_id: Its number there.
        item: Its input.
        label: How its name begins, or its name.
        source: The history of its directory, and whether nobody else may have written there.
        row: Of the job, in the history's table.
        failed: Whether it has failed; else it is done.
        numbered: Whether its name is the label with its number.
    """

    resumed = True
    _state = "FINISHED"
    _exception: BaseException | None = None
    _value: Any
    _read: Record | None = None

    def __init__(  # noqa: PLR0913 - what a job is; a million of these may be made
        self,
        pool: Pool,
        job_id: int,
        item: object,
        label: str,
        source: tuple[History, bool],
        row: int,
        *,
        failed: bool,
        numbered: bool,
    ) -> None:
        # Not as Job.__init__: what `concurrent.futures.wait` needs is made when it asks.
        self.id = job_id  # type: ignore[misc]
        self.args = (item,)  # type: ignore[misc]
        self._label = label
        self._pool = pool
        self._source = source
        self._row = row
        self._failed = failed
        if not numbered:
            self._numbered = False

    def __getattr__(self, name: str) -> Any:
        if name == "_condition":
            made: Any = threading.Condition()
        elif name in {"_waiters", "_done_callbacks"}:
            made = []
        else:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return vars(self).setdefault(name, made)

    @property
    def attempt(self) -> int:
        """Which attempt ended last, counted over all runs."""
        last = self._record.last
        return last.number if last else 0

    @property
    def meters(self) -> Mapping[str, float]:
        """What all its attempts have counted together, as the directory says."""
        return self._record.meters

    @property
    def progress(self) -> Progress:
        """How far the output has come: to its end."""
        size = self._record.size
        return Progress(Mode.MEMORY, size, 1 if size else 0, None, threshold_exceeded=False)

    def output(self, timeout: float | None = None) -> Output:
        """Return what the job wrote; as `Job.output`.

        Raises:
            OutputLostError: It is not all there any more.
        """
        del timeout
        if self._output is None:
            self._output = self._record.output()
        return self._output

    def log(self, timeout: float | None = None) -> Output:
        """Return what the job printed; as `Job.log`, and raises as `output`."""
        del timeout
        if self._log is None:
            self._log = self._record.log()
        return self._log

    def result(self, timeout: float | None = None) -> Any:
        """Return the value, which is unpickled now, or raise the error; as `Job.result`.

        Raises:
            BatchError: Others may write in the directory: nothing of it is unpickled.
        """
        del timeout
        error = self.exception()
        if error is not None:
            raise error
        if "_value" not in vars(self):
            try:
                self._value = self._record.value()
            except (OSError, MemoryError):
                raise
            except Exception as failure:
                # User code runs in unpickling: its error is told with the job's name.
                raise JobError(
                    f"what job {self.name} returned in an earlier run cannot be unpickled: "
                    f"{calls.describe(failure)}",
                    self.id,
                    self.name,
                    self.attempt,
                ) from failure
        return self._value

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the error, if there is one; as `Job.exception`.

        Raises:
            BatchError: As `result`.
        """
        del timeout
        if not self._failed:
            return None
        if self._exception is None:
            self._exception = self._record.exception()
        return self._exception

    def follow(self, *, text: bool = False) -> Any:
        """Return the output, from its first byte; as `Job.follow`."""
        return super().follow(text=text)

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Have this called with the job now; as `Future.add_done_callback`."""
        try:
            fn(self)
        except Exception:  # of the user's: as `Future` does
            _logger.exception("exception calling callback for %r", self)

    def cancel(self) -> bool:
        """Return False: it is over."""
        return False

    def cancelled(self) -> bool:
        """Return False."""
        return False

    def running(self) -> bool:
        """Return False."""
        return False

    def done(self) -> bool:
        """Return True."""
        return True

    def kill(self) -> bool:
        """Return False: it is over."""
        return False

    def __repr__(self) -> str:
        """As that of `Future`; what was not asked for is not read for it."""
        known = "(not read yet)"
        if self._exception is not None:
            known = f"raised {type(self._exception).__name__}"
        elif "_value" in vars(self):
            known = f"returned {type(self._value).__name__}"
        return f"<{type(self).__name__} at {id(self):#x} state=finished {known}>"

    @property
    def _record(self) -> Record:
        if self._read is None:
            history, trusted = self._source
            self._read = record_of(history, self._row, trusted=trusted)
        return self._read
