"""A job: the `Future` of what a function returns, with the output that it writes.

Runs in:    the parent: what is public in threads of the user's, the rest as `jobs.Owner` says.
Owns:       once it has ended, its output and its log.
"""

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, Final, Generic, NoReturn, TypeVar, cast

from collector.executor.condition import SmallCondition
from collector.process.following import Following
from collector.process.pool import Pool
from collector.progress.batch import Watcher
from collector.store.mode import Mode
from collector.store.output import Output
from collector.store.spill import Progress

R = TypeVar("R")


class Job(Future[R], Generic[R]):
    """One job: a `Future` of what the function returns, with the output that it writes.

    Attributes:
        id: Number of the job in its Collector, from 1.
        args: Positional arguments, as given to `submit`.
    """

    # What most jobs that wait have alike stands here: 100,000 of them are kept in memory.
    _numbered = True
    _kwargs: dict[str, Any] | None = None
    _observers: tuple[Watcher, ...] = ()
    _attempt = 1
    _written: tuple[int, int, str] = (0, 0, "")
    _output: Output | None = None
    _log: Output | None = None
    _watchers: list[Callable[[], None]] | None = None

    def __init__(  # noqa: PLR0913 - what a job is
        self,
        pool: Pool,
        job_id: int,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        label: str,
        observers: tuple[Watcher, ...],
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
        """Which attempt runs or ran last; the first is 1."""
        return self._attempt

    @property
    def progress(self) -> Progress:
        """How far the output has come, as of 0.1 s ago; exact once the job has ended."""
        size, chunks, name = self._written
        path = self._pool.directory.path / name if name else None
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
            from collector.broken import BrokenCollectorError  # noqa: PLC0415 - is loaded by now

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

    def follow(self) -> Following:
        """Return the bytes of the output as they come: for `for`, and for `async for`.

        May be asked at any time and any number of times; each begins with the first byte. A slow
        reader holds back nobody: asking makes the output go to a file early.
        """
        self._pool.follow(self.id)
        return Following(self, self._pool.directory)

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
        if not super().cancel():
            return False
        if not self.claim():  # whoever waits for this job in `wait` or `as_completed` is told now
            self._pool.withdraw(self.id)
        return True

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Job cannot be pickled; pass its value, job.result(), instead")

    def written(self) -> tuple[int, str]:
        """See `Followed.written`."""
        size, _, name = self._written
        return size, name

    def watch(self, wake: Callable[[], None]) -> Callable[[], None]:
        """See `Followed.watch`."""
        with self._condition:
            first = self._watchers is None
            watchers = [] if self._watchers is None else self._watchers
            self._watchers = watchers
            watchers.append(wake)
        if first:  # a Future keeps every callback: all watchers share one
            self.add_done_callback(_wake_watchers)
        elif self.done():
            wake()
        return lambda: watchers.remove(wake)

    def claim(self) -> bool:
        """See `Owner.claim`. Once is enough: the standard takes a second time for a bug."""
        with self._condition:
            if self._state == "PENDING":  # as `set_running_or_notify_cancel`, which locks again
                self._state = "RUNNING"
                return True
            told = self._state == "CANCELLED_AND_NOTIFIED"
            return not told and self.set_running_or_notify_cancel()

    def unclaim(self) -> None:
        """See `Owner.unclaim`."""
        with self._condition:
            if self._state == "RUNNING":
                self._state = "PENDING"

    def come_back(self) -> None:
        """See `Owner.come_back`."""
        self.unclaim()
        self.cancel()

    def attempted(self, attempt: int) -> None:
        """See `Owner.attempted`."""
        self._attempt = attempt
        self._written = (0, 0, "")
        _wake_watchers(self)

    def started(self) -> None:
        """See `Owner.started`."""
        for observer in self._observers:
            observer.started(self)

    def progressed(self, bytes_written: int, chunks: int, name: str) -> None:
        """See `Owner.progressed`."""
        self._written = (bytes_written, chunks, name)
        for observer in self._observers:
            observer.progressed(self)
        _wake_watchers(self)

    def settle(
        self, value: R, error: BaseException | None, output: Output, log: Output | None
    ) -> None:
        """See `Owner.settle`."""
        self._output, self._log = output, log
        path = output.path
        written = (output.size, output.chunks, path.name if path else "")
        if written != self._written:
            self._written = written
        try:
            if error is None:
                self.set_result(value)
            else:
                self.set_exception(error)
        except InvalidStateError:  # cancelled in this moment, and it had not run
            output.close()


def _wake_watchers(job: Any) -> None:
    for wake in list(job._watchers or ()):  # noqa: SLF001 - a bound method would tie a knot
        wake()
