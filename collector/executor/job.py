"""A job: the `Future` of what a function returns, with the output that it writes.

Runs in:    the parent: what is public in threads of the user's, the rest as `JobOwner` says.
Owns:       once it has ended, its output and its log.
Invariants: I1  nothing of ours holds the job's lock while code of the user's may run in the same
                thread (a signal handler, a finalizer) that waits for the pool: the pool needs it.
            I2  one call on a dict, which nothing interrupts, decides whether a job is cancelled or
                runs (`_fate`); whoever has cancelled it tells that to all, and nobody else does.
"""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, NoReturn, TypeVar, cast, overload

from collector.executor.condition import SmallCondition
from collector.logger import PackageLogger
from collector.process.pool.ending import Ending
from collector.process.pool.follow import Following, as_bytes, as_text
from collector.process.pool.pool import Pool
from collector.store.output.output import Output
from collector.store.output.progress import Mode, Progress

if TYPE_CHECKING:
    from collector.progress.batch import Observer

R = TypeVar("R")

_RUNS: Final = "runs"
_CANCELLED: Final = "CANCELLED_AND_NOTIFIED"
_logger = PackageLogger("concurrent.futures")


class Job(Future[R], Generic[R]):
    """One job: a `Future` of what the function returns, with the output that it writes.

    Attributes:
        id: Number of the job in its Collector, from 1.
        args: Positional arguments, as given to `submit`.
        resumed: Whether it was taken from a batch directory: then no process has run it now.

    Example:
        >>> def careless():
        ...     yield "half of it"
        ...     raise ValueError("enough")
        >>> with Collector(max_workers=1) as collector:
        ...     job = collector.submit(careless)
        ...     print(repr(job.exception()), job.output().text(), job.output().complete)
        ValueError('enough') half of it False
    """

    resumed = False
    keeps_attempts = False
    known_as = 0
    """The number by which those know it who ask; 0 if that is its own."""
    earlier_attempts = 0
    """Attempts before its own: in earlier runs, or as jobs of their own."""
    reruns = 0
    """How often it has been run again, also where that is no further attempt."""
    wanted_dead = False
    """Whether somebody wanted this job killed: else its Collector was shut down, or halted."""
    at_count: Callable[[Mapping[str, float], Mapping[str, float]], object] | None = None
    """Hears of what the job counts, and of the sum that has it, in a thread of the pool's."""
    # What most jobs that wait have alike stands here: 100,000 of them are kept in memory.
    _numbered = True
    _kwargs: dict[str, Any] | None = None
    _observers: "tuple[Observer, ...]" = ()
    _attempt = 1
    _written: tuple[int, int, str] = (0, 0, "")
    _meters: Mapping[str, float] = MappingProxyType({})
    _output: Output | None = None
    _log: Output | None = None
    _watchers: list[Callable[[], None]] | None = None
    _waiting: "list[threading.Lock] | None" = None
    _fate: object = None
    """None while nothing is decided, `_RUNS`, or what stands for one call of `cancel`."""

    def __init__(  # noqa: PLR0913 - what a job is
        self,
        pool: Pool,
        job_id: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        label: str,
        observers: "tuple[Observer, ...]",
        *,
        numbered: bool = True,
    ) -> None:
        # As Future.__init__, but for the condition. A test watches what else may come there.
        self._condition = SmallCondition()
        self._state = "PENDING"
        self._result = self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Callable[[Any], object]] = []
        self.id: Final = job_id
        self.args: Final = args
        self._label = label
        self._pool = pool
        if kwargs:
            self._kwargs = kwargs
        if observers:
            self._observers = observers
        if not numbered:
            self._numbered = False
        for observer in observers:
            self.add_done_callback(cast("Callable[[Future[R]], object]", observer.ended))

    @property
    def name(self) -> str:
        """Its name, for bars and messages: as it was given, or its function's and its number."""
        return f"{self._label}-{self.id}" if self._numbered else self._label

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments, as given to `submit`."""
        return self._kwargs or {}

    @property
    def attempt(self) -> int:
        """Which attempt runs or ran last; the first is 1.

        With a batch directory it is counted over all runs, as there.
        """
        return self.earlier_attempts + self._attempt

    @property
    def attempt_of_run(self) -> int:
        """See `Observed.attempt_of_run`."""
        return self._attempt

    @property
    def meters(self) -> Mapping[str, float]:
        """What it has counted (`current_job().count`), by name: over all attempts so far.

        With a batch directory those of earlier runs are among them.
        """
        return MappingProxyType(dict(self._meters))

    @property
    def meters_of_run(self) -> Mapping[str, float]:
        """What it has counted of that now, and not in an earlier run."""
        return self._meters

    @property
    def progress(self) -> Progress:
        """How far the output has come, as of 0.1 s ago; exact once the job has ended."""
        size, chunks, name = self._written
        path = self._pool.directory.holding(name).path / name if name else None
        mode = Mode.STREAMING if path else Mode.MEMORY
        return Progress(mode, size, chunks, path, path is not None)

    def output(self, timeout: float | None = None) -> Output:
        """Wait for the end and return what the job wrote, also if it failed.

        Of a job that failed with `SpillError` a file is not kept: it goes at once, to make room.

        Args:
            timeout: Seconds to wait at most; None for as long as it takes.

        Raises:
            CancelledError: The job was cancelled.
            TimeoutError: It has not ended in time.
        """
        self.exception(timeout)
        if self._output is None:
            from collector.crash_errors import BrokenCollectorError  # noqa: PLC0415 - is loaded by now

            raise BrokenCollectorError(f"job {self.name} has ended without an output")
        return self._output

    def log(self, timeout: float | None = None) -> Output:
        """Wait for the end and return what the job and its subprocesses printed (`capture=True`).

        Args:
            timeout: Seconds to wait at most; None for as long as it takes.

        Raises:
            CancelledError: The job was cancelled.
            TimeoutError: It has not ended in time.
        """
        complete = self.output(timeout).complete
        if self._log is None:  # nothing was to be captured
            self._log = Output.in_memory(b"", chunks=0, complete=complete)
        return self._log

    @overload
    def follow(self, *, text: Literal[False] = False) -> Following[bytes]: ...
    @overload
    def follow(self, *, text: Literal[True]) -> Following[str]: ...
    @overload
    def follow(self, *, text: bool) -> Following[bytes] | Following[str]: ...
    def follow(self, *, text: bool = False) -> Following[bytes] | Following[str]:
        """Return the output as it comes: for `for`, and for `async for`.

        May be asked at any time and any number of times; each begins with the first byte. A slow
        reader holds back nobody: asking makes the output go to a file early.

        Args:
            text: Give str, decoded as UTF-8, never half a character; not bytes. Where the output is
                none, also where a job that has not failed ends within a character, that raises
                `UnicodeDecodeError`.

        Raises:
            TypeError: `text` is no bool, but the name of an encoding, for example.
        """
        if not isinstance(text, bool):
            raise TypeError(f"text must be True, which is UTF-8, or False, not {text!r}")
        self._pool.follow(self.id)
        if text:
            return Following(self, self._pool.directory, as_text)
        return Following(self, self._pool.directory, as_bytes)

    def kill(self) -> bool:
        """End the job now: cancel it if it waits, else kill its worker and its subprocesses.

        Returns:
            False if it had ended already.
        """
        if self.cancel():
            return True
        if self.done():
            return False
        self._pool.kill(self.id)
        return True

    def cancel(self) -> bool:
        """Cancel the job if it is not running yet; as `Future.cancel`.

        While jobs take next to no time up to 256 of them are at each worker: they count as running.
        `kill` cancels those too, as long as they have not started.
        """
        ours = object()
        fate = vars(self).setdefault("_fate", ours)
        if fate is not ours:
            return fate is not _RUNS
        with self._condition:
            self._state = _CANCELLED
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        self._invoke_callbacks()
        self._pool.withdraw(self.id)
        return True

    def cancelled(self) -> bool:
        """Whether it was cancelled; as `Future.cancelled`."""
        return self._fate not in (None, _RUNS)

    def running(self) -> bool:
        """Whether it runs, or is at a worker; as `Future.running`."""
        return self._state == "RUNNING"

    def done(self) -> bool:
        """Whether it has ended, or was cancelled; as `Future.done`."""
        return self._state == "FINISHED" or self._fate not in (None, _RUNS)

    def result(self, timeout: float | None = None) -> R:
        """Wait for the end and return the value, or raise the error; as `Future.result`."""
        try:
            error = self.exception(timeout)
            if error is not None:
                raise error
            return cast("R", self._result)
        finally:
            self = error = None  # type: ignore[assignment]  # noqa: PLW0642 - or both live as long as the traceback

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end and return the error, if there is one; as `Future.exception`."""
        if self._state != "FINISHED":
            if not self.cancelled():
                self._wait(timeout)
            if self.cancelled():
                raise CancelledError
        return self._exception

    def _wait(self, timeout: float | None) -> None:
        """Wait for the end; a lock of C's is all that is held meanwhile (I1)."""
        gate = threading.Lock()
        gate.acquire()
        waiting = vars(self).setdefault("_waiting", [])
        waiting.append(gate)
        try:
            # Look again: it may have ended before anybody could know of the gate.
            if not self.done() and not gate.acquire(timeout=_seconds(timeout)):
                raise TimeoutError
        finally:
            with suppress(ValueError):  # it was opened
                waiting.remove(gate)

    def add_done_callback(self, fn: Callable[[Future[R]], object]) -> None:
        """Have this called with the job at its end, or now; as `Future.add_done_callback`."""
        self._done_callbacks.append(fn)
        if self.done():
            self._invoke_callbacks()

    def _invoke_callbacks(self) -> None:
        """It is over: wake who waits for that, and call what is to be called, each once."""
        gates = self._waiting
        while gates:
            with suppress(IndexError):  # whoever waited has gone, or somebody else does this
                gates.pop().release()
        if self._watchers:
            _wake_watchers(self)
        while self._done_callbacks:
            try:
                callback = self._done_callbacks.pop(0)
            except IndexError:
                return
            try:
                callback(self)
            except Exception:  # of the user's; as `Future` does
                _logger.exception("exception calling callback for %r", self)
            except BaseException:
                self._invoke_callbacks()  # somebody may wait for one behind it
                raise

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Job cannot be pickled; pass its value, job.result(), instead")

    def written(self) -> tuple[int, str]:
        """See `Watched.written`."""
        size, _, name = self._written
        return size, name

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """See `Watched.watch`."""
        watchers: list[Callable[[], None]] = vars(self).setdefault("_watchers", [])
        watchers.append(wake)
        if self.done():
            wake()
        return lambda: watchers.remove(wake)

    def claim(self) -> bool:
        """See `JobOwner.claim`."""
        if vars(self).setdefault("_fate", _RUNS) is not _RUNS:
            return False
        self._state = "RUNNING"
        return True

    def unclaim(self) -> None:
        """See `JobOwner.unclaim`."""
        if self._fate is _RUNS:
            self._state = "PENDING"
            del self._fate  # not before: from now on somebody may cancel it

    def come_back(self) -> None:
        """See `JobOwner.come_back`."""
        self.unclaim()
        self.cancel()

    def attempted(self, attempt: int) -> None:
        """See `JobOwner.attempted`."""
        self.reruns += 1  # first: who sees what the next run writes must know that it is another
        self._attempt = attempt
        for observer in self._observers:
            observer.rests(self)
        self._written = (0, 0, "")
        _wake_watchers(self)

    def started(self) -> None:
        """See `JobOwner.started`."""
        for observer in self._observers:
            observer.started(self)

    def progressed(self, bytes_written: int, chunks: int, name: str) -> None:
        """See `JobOwner.progressed`."""
        self._written = (bytes_written, chunks, name)
        for observer in self._observers:
            observer.progressed(self)
        _wake_watchers(self)

    def counted(self, meters: Mapping[str, float]) -> None:
        """See `JobOwner.counted`."""
        sums = dict(self._meters)
        for name, value in meters.items():
            sums[name] = sums.get(name, 0) + value
        self._meters = sums
        if self.at_count is not None:
            self.at_count(meters, sums)
        for observer in self._observers:
            observer.progressed(self)

    def attempt_failed(
        self, ending: Ending, error: BaseException | None, output: Output, log: Output | None
    ) -> None:
        """See `JobOwner.attempt_failed`."""

    def ran(self, ending: Ending) -> None:
        """See `JobOwner.ran`."""

    def settle(
        self, value: R, error: BaseException | None, output: Output, log: Output | None
    ) -> None:
        """See `JobOwner.settle`."""
        self._output, self._log = output, log
        if self._fate is not _RUNS and not self.claim():  # cancelled just now, and it had not run
            output.close()
            return
        path = output.path
        written = (output.size, output.chunks, path.name if path else "")
        if written != self._written:
            self._written = written
        if error is None:
            self.set_result(value)
        else:
            self.set_exception(error)


def _seconds(timeout: float | None) -> float:
    """Return a time-out as locks take it: infinite, or longer than any clock tells, it is none."""
    return -1 if timeout is None else min(max(0.0, timeout), threading.TIMEOUT_MAX)


def _wake_watchers(job: Any) -> None:
    for wake in list(job._watchers or ()):  # noqa: SLF001 - a bound method would tie a knot
        wake()
